// What the theme's pages lack: a search that works from disk, and names for those who do not see them.

// A page opened from disk may not read other pages: its search lists titles alone.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", () => {
  const sidebar = document.querySelector(".bd-sidebar-primary");
  if (sidebar && sidebar.tagName !== "DIALOG") {
    sidebar.setAttribute("role", "region");
    sidebar.setAttribute("aria-label", "Contents of the book");
  }
  document.querySelectorAll("nav summary:empty, nav summary:has(> i), nav summary:has(> span[role])").forEach((summary) => {
    const entry = summary.closest("li")?.querySelector("a")?.textContent.trim();
    summary.setAttribute("aria-label", `Pages of ${entry ?? "this part"}`);
  });
  // A corner of a table is no heading.
  document.querySelectorAll("table th").forEach((cell) => {
    if (cell.textContent.trim()) return;
    const plain = document.createElement("td");
    [...cell.attributes].forEach(({ name, value }) => name !== "scope" && plain.setAttribute(name, value));
    cell.replaceWith(plain);
  });
});
