// The explorer's controls. Whatever a reader does to any of them goes to the kernel in one numbered
// stream, in the order in which it was done: ipywidgets has a stream for each control, holds back
// in each what the kernel has no time for, and so lets a slider's last move overtake a Reset.

function make(tag, properties = {}, children = []) {
  const { attributes = {}, ...own } = properties;
  const element = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const put = (element, value) => {
  // Only what differs: to set a text that is there already would move the cursor.
  if (element.value !== String(value)) element.value = value;
};

const heading = (words) => make("div", { className: "emomm-heading", textContent: words });

const line = (words, ...children) =>
  make("div", { className: "emomm-line" }, [
    make("span", { className: "emomm-name", textContent: words }),
    ...children,
  ]);

// Called once for each kernel-side widget; its views share what follows.
export default () => {
  const client = String(Math.random());
  const views = new Set();
  // Values that the kernel has not seen yet, by control, each with its event's number.
  const ahead = new Map();
  let model, queue = [], last = 0, waiting = false;

  const paint = () => views.forEach((view) => view());
  const value = (name) => (ahead.get(name) || { value: model.get("face").values[name] }).value;

  function send() {
    if (waiting || !queue.length) return;
    waiting = true;
    const content = { client, seen: last, events: queue };
    queue = [];
    // The kernel is idle again once it has drawn. What is done meanwhile goes together, unmerged.
    const status = (message) => {
      if (message.content.execution_state !== "idle") return;
      waiting = false;
      send();
      paint();
    };
    model.send(content, { iopub: { status } });
  }

  function tell(name, value = null) {
    ahead.set(name, { number: ++last, value });
    queue.push([name, value]);
    send();
    paint();
  }

  function answered() {
    const { client: whose, seen } = model.get("face");
    if (whose === client) {
      for (const [name, { number }] of ahead) if (number <= seen) ahead.delete(name);
    }
    paint();
  }

  function render({ el }) {
    const form = model.get("form");
    const painters = [];

    function menu(name, words = name) {
      const select = make("select", {
        className: `emomm-${name}`,
        onchange: () => tell(name, select.value),
        attributes: { "aria-label": words },
      });
      let drawn = null;
      painters.push(() => {
        const options = form.menus[name] || model.get("clips");
        if (options !== drawn) {
          drawn = options;
          select.replaceChildren(...options.map(([shown, own]) => new Option(shown, own)));
        }
        put(select, value(name));
      });
      return select;
    }

    function row({ name, symbol, tip, low, end, step, colour }) {
      const slider = make("input", {
        type: "range", min: low, max: end, step, title: tip,
        className: `emomm-${name}`,
        oninput: () => tell(name, slider.valueAsNumber),
        attributes: { "aria-label": `${symbol}: ${tip}` },
      });
      if (colour) slider.style.setProperty("--emomm-thumb", colour);
      // Whether something is typed that has not been entered; then nothing may write over it.
      let typing = false;
      const number = () => (Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : null);
      const field = make("input", {
        type: "number", step,
        className: `emomm-${name}-field`,
        oninput: () => { typing = true; },
        onchange: () => { typing = false; tell(name, number()); },
        onblur: () => { typing = false; paint(); },
        attributes: { "aria-label": symbol },
      });
      painters.push(() => {
        const now = value(name), taken = model.get("face").values[name];
        // What is taken beyond a slider's end moves the end, but back only when nobody drags.
        const furthest = slider === document.activeElement ? Number(slider.max) : end;
        slider.max = Math.max(furthest, taken);
        put(slider, now === null ? taken : now);
        const held = field.value;
        if (!typing) put(field, now === null ? "" : now);
        // Of a field that one is in all is selected again, or what is typed next would be added.
        if (field.value !== held && field === document.activeElement) field.select();
      });
      return line(symbol, slider, field);
    }

    const search = make("input", {
      type: "text", className: "emomm-search", placeholder: "search id or transcript",
      oninput: () => tell("search", search.value),
      attributes: { "aria-label": "search id or transcript" },
    });
    const reset = make("button", {
      type: "button", className: "emomm-reset", textContent: "Reset", title: "the published values",
      onclick: () => tell("reset"),
    });
    const count = make("div", { className: "emomm-count", attributes: { role: "status" } });
    const player = make("div", { className: "emomm-player" });
    const byHand = make("div", {}, form.hand.map(row));
    let played = null;
    const root = make("div", { className: "emomm-controls" }, [
      heading("Clip"),
      make("div", { className: "emomm-line" }, form.filters.map((name) => menu(name))),
      search, menu("sample_id", "clip"), count,
      line("modalities", menu("coalition", "modalities")),
      player,
      heading("Steering"),
      line("start from", menu("preset", "start from"), reset),
      line("gate", menu("gate")),
      byHand,
      ...form.steering.map(row),
      line("preference", menu("preference")),
      line("rule", menu("rule")),
    ]);
    // JupyterLab's own single-key shortcuts would change the cell.
    root.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.altKey && !event.metaKey) event.stopPropagation();
    });
    painters.push(() => {
      put(search, value("search"));
      count.textContent = model.get("face").count;
      byHand.hidden = value("gate") !== form.by_hand;
      root.setAttribute("aria-busy", waiting);
      if (played !== model.get("player")) {
        played = model.get("player");
        player.innerHTML = played;
      }
    });
    const view = () => painters.forEach((one) => one());
    view();
    views.add(view);
    el.append(root);
    return () => views.delete(view);
  }

  function initialize(given) {
    model = given.model;
    model.on("change:face", answered);
    model.on("change:player", paint);
  }

  return { initialize, render };
};
