// The annotation panel's browser side. It draws what the kernel sends and sends back what was
// pressed, with the number of the screen that it was pressed on.

const LABELS = [
  { label: -1, words: "negative", keys: ["1", "ArrowLeft"], shown: "1 or ←" },
  { label: 0, words: "neutral", keys: ["2", "ArrowDown"], shown: "2 or ↓" },
  { label: 1, words: "positive", keys: ["3", "ArrowRight"], shown: "3 or →" },
];
const MEDIA = {
  T: "the text is shown",
  A: "the sound has begun to play",
  V: "the film has begun to play",
};
// Milliseconds. A second press of a key that was meant to be pressed once comes sooner than that,
// and nobody has judged a clip by then.
const SETTLING = 300;
const PATIENCE = 6000;
const SILENCE =
  "The kernel does not answer, so this may not have been saved. Run the cell again: the panel " +
  "goes on at the first clip without a saved answer.";
const HELD = "Not counted: the kernel is still busy with what you did before.";

function make(tag, properties = {}, children = []) {
  const { attributes = {}, ...own } = properties;
  const element = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const signed = (label) => ["−1", "0", "+1"][label + 1];

function render({ model, el }) {
  const root = make("div", {
    className: "emomm-annotate",
    tabIndex: 0,
    // JupyterLab's own single-key shortcuts would change the cell.
    attributes: { role: "group", "data-lm-suppress-shortcuts": "true" },
  });
  el.append(root);
  let now = null;
  let busy = true;
  let armed = false;
  let release = () => {};
  let silence = 0;
  let silent = false;
  let status = null;

  const say = (words) => {
    if (status) status.textContent = words;
  };

  function arm(value) {
    armed = value;
    root.dataset.armed = value;
    for (const button of root.querySelectorAll(".emomm-label")) {
      // Not "disabled", which would take the focus away from under the annotator's finger.
      button.setAttribute("aria-disabled", String(!value));
    }
  }

  function tell(kind, more = {}) {
    busy = true;
    arm(false);
    model.send({ kind, number: now ? now.number : null, ...more });
    clearTimeout(silence);
    silent = false;
    silence = setTimeout(() => {
      silent = true;
      say(SILENCE);
    }, PATIENCE);
  }

  // A second press in a hurry must not reach the next clip, and is not dropped without a word.
  const held = () => say(silent ? SILENCE : HELD);

  function answer(label) {
    if (now.screen !== "item") return;
    if (busy) {
      held();
      return;
    }
    if (!armed) {
      say(now.failed ? "A clip that cannot be opened gets no label." : waiting());
      return;
    }
    say("Saving …");
    tell("answer", { label });
  }

  const waiting = () => `Not counted: you can answer once ${MEDIA[now.modality]}.`;
  const act = (kind) => () => (busy ? held() : tell(kind));
  const skip = () => now.failed && act("skip")();
  const onward = () => (now.screen !== "item" || now.label !== null) && act("next")();

  function replay() {
    const media = root.querySelector("video, audio");
    if (!media) return;
    media.currentTime = 0;
    media.play().catch(() => say("Press R to play."));
  }

  function failed(words) {
    now.failed = words;
    arm(false);
    const stage = root.querySelector(".emomm-stage");
    stage.replaceChildren(
      make("p", { className: "emomm-failed", textContent: words }),
      make("p", {
        textContent:
          "It gets no label. Set it aside: it stays open, and is asked again when the panel is " +
          "opened anew.",
      }),
      press("Set aside", "S", skip, "emomm-skip"),
    );
    say("This clip cannot be opened. Press S to set it aside.");
  }

  function press(words, key, action, name) {
    return make("button", {
      type: "button",
      className: `emomm-button ${name}`,
      onclick: action,
      attributes: { "aria-keyshortcuts": key },
    }, [words, make("kbd", { textContent: key })]);
  }

  function stage(buffers) {
    const place = make("div", { className: "emomm-stage" });
    const settled = Date.now() + SETTLING;
    const number = now.number;
    const ready = () => {
      const seen = () => now.number === number && now.screen === "item" && !busy && arm(true);
      setTimeout(seen, Math.max(0, settled - Date.now()));
    };
    if (now.failed) return place;
    if (now.modality === "T") {
      const attributes = now.language ? { lang: now.language } : {};
      place.append(make("blockquote", { textContent: now.text, attributes }));
      // Painted by the second frame.
      requestAnimationFrame(() => requestAnimationFrame(ready));
      return place;
    }
    const url = URL.createObjectURL(new Blob([buffers[0]], { type: now.media }));
    const sees = now.modality === "V";
    const media = make(sees ? "video" : "audio", {
      src: url,
      playsInline: true,
      disablePictureInPicture: true,
      attributes: { "aria-label": sees ? "film without sound" : "sound" },
    });
    const bar = make("progress", { value: 0, attributes: { "aria-hidden": "true" } });
    media.addEventListener("playing", ready, { once: true });
    media.addEventListener("error", () => {
      if (now.number === number) failed("The browser cannot play this clip.");
    });
    media.addEventListener("timeupdate", () => {
      bar.max = media.duration || 1;
      bar.value = media.currentTime;
    });
    place.append(...(sees ? [] : [make("p", { textContent: "Sound only" })]), media, bar);
    const buttons = make("div", {}, [press("Play again", "R", replay, "emomm-replay")]);
    place.append(buttons);
    media.play().catch((error) => {
      if (error.name === "NotAllowedError") say("Press R to play.");
    });
    release = () => {
      media.pause();
      media.removeAttribute("src");
      URL.revokeObjectURL(url);
    };
    return place;
  }

  function header() {
    const place = now.seq ? ` · seq ${now.seq}` : "";
    const count = `${now.done} of ${now.total}`;
    const bar = make("progress", {
      value: now.done,
      max: now.total,
      attributes: { "aria-label": `done: ${count}` },
    });
    return make("div", { className: "emomm-header" }, [
      make("span", { className: "emomm-who", textContent: now.annotator }),
      make("h3", { className: "emomm-title", textContent: now.title }),
      make("span", { className: "emomm-seq", textContent: place }),
      make("span", { className: "emomm-done" }, [bar, ` ${count}`]),
    ]);
  }

  function labels() {
    const buttons = LABELS.map(({ label, words, shown }) =>
      make("button", {
        type: "button",
        className: "emomm-button emomm-label",
        onclick: () => answer(label),
        attributes: {
          "data-label": label,
          "aria-label": `${label} ${words}, key ${shown}`,
          "aria-pressed": String(now.label === label),
        },
      }, [
        make("strong", { textContent: signed(label) }),
        make("span", { textContent: words }),
        make("kbd", { textContent: shown }),
      ]),
    );
    return make("div", { className: "emomm-labels" }, buttons);
  }

  function given() {
    const { label, words } = LABELS.find((one) => one.label === now.label);
    return make("p", { className: "emomm-given" }, [
      `You answered ${signed(label)} ${words}. Answer again, or keep it: `,
      press("Keep", "Enter", onward, "emomm-keep"),
    ]);
  }

  function verdict() {
    const words = now.same ? "Your answer agrees with the reference." : "Your answer differs.";
    return make("div", { className: "emomm-verdict" }, [
      make("p", {}, [make("strong", { textContent: `${now.same ? "✓" : "✗"} ${words}` })]),
      make("p", { textContent: `You: ${now.answer}. Reference: ${now.reference}.` }),
      make("p", { textContent: `The rule: ${now.why}` }),
      make("p", { textContent: `Agreement so far: ${now.agreed} of ${now.judged}.` }),
      press("Next", "Enter", onward, "emomm-next"),
    ]);
  }

  function draw(buffers) {
    release();
    release = () => {};
    const parts = [header()];
    if (now.screen === "pause") {
      parts.push(make("ul", {}, now.lines.map((line) => make("li", { textContent: line }))));
      const buttons = now.button ? [press(now.button, "Enter", onward, "emomm-next")] : [];
      parts.push(make("div", { className: "emomm-row" }, [...buttons, back()]));
    } else {
      parts.push(make("p", { className: "emomm-guideline", textContent: now.guideline }));
      parts.push(stage(buffers));
      if (now.screen === "feedback") parts.push(verdict());
      else {
        parts.push(labels());
        if (now.label !== null) parts.push(given());
        parts.push(make("div", { className: "emomm-row" }, [back()]));
      }
    }
    status = make("p", {
      className: "emomm-status",
      textContent: now.remark || "",
      attributes: { role: "status", "aria-live": "polite" },
    });
    const unfocused = "The keys work while this panel has the focus: click on it.";
    parts.push(
      status,
      make("p", { className: "emomm-unfocused", textContent: unfocused }),
      make("p", { className: "emomm-confidential", textContent: now.confidential }),
    );
    root.replaceChildren(...parts);
    root.setAttribute("aria-label", `annotation by ${now.annotator}: ${now.title}`);
    if (now.failed) failed(now.failed);
  }

  const back = () => press("Back", "Backspace", act("back"), "emomm-back");

  function focus(had) {
    const where = document.activeElement;
    const writing = where && where.closest("input, textarea, [contenteditable='true']");
    if (!had && writing) return;
    (root.querySelector(".emomm-next") || root).focus({ preventScroll: had });
  }

  function show(message, buffers) {
    if (message.screen === "remark") {
      if (now === null || message.number !== now.number) return;
      clearTimeout(silence);
      busy = false;
      arm(now.screen === "item" && !now.failed);
      say(message.remark);
      return;
    }
    const had = now !== null && root.contains(document.activeElement);
    const first = now === null;
    // Another view of the same panel asked for what is shown here already.
    if (!first && message.number === now.number && !busy) return;
    clearTimeout(silence);
    now = { ...message };
    busy = false;
    arm(false);
    if (message.kept && root.querySelector(".emomm-labels")) {
      root.querySelector(".emomm-labels").replaceWith(verdict());
      root.querySelector(".emomm-header").replaceWith(header());
      root.querySelector(".emomm-row").remove();
      say("");
    } else draw(buffers);
    Object.assign(root.dataset, {
      screen: now.screen,
      number: now.number,
      modality: now.modality || "",
    });
    if (had || first) focus(had);
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || now === null) {
      // JupyterLab does not hear it here, and the browser would save the page with the clip.
      if ((event.ctrlKey || event.metaKey) && event.key === "s") event.preventDefault();
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const chosen = LABELS.find(({ keys }) => keys.includes(key));
    const onButton = event.target.tagName === "BUTTON";
    const actions = { r: replay, s: skip, Backspace: act("back") };
    // A focused button takes Enter and the space bar itself, but not again while they are held.
    if (!onButton) actions.Enter = onward;
    const known = chosen || actions[key];
    if (known || event.repeat) event.preventDefault();
    if (!known || event.repeat) return;
    event.stopPropagation();
    if (chosen) answer(chosen.label);
    else actions[key]();
  });

  model.on("msg:custom", show);
  tell("ready");
  return () => {
    clearTimeout(silence);
    release();
    model.off("msg:custom", show);
  };
}

export default { render };
