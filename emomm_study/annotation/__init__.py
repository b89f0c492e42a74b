"""The annotation protocol of Appendix A.2: campaign, answers, agreement, export."""
