// The live explorer: every setting was computed beforehand (book/replay.py); this looks them up.

(() => {
  "use strict";
  const data = window.EMOMM_REPLAY;
  const grid = data.made_of.grid;
  const layers = data.layers;
  const NAMES = { T: "text", A: "audio", V: "video" };
  const PUBLISHED = { gamma: 1.4, eta: 0.6, preference: "softmax", place: "published" };
  const TRUST = { T: 0, A: 0, V: 1 };
  const at = (id) => document.getElementById(`live-${id}`);
  const settings = Object.values(grid).reduce((count, values) => count * values.length, 1);
  const trusts = new Map(grid.trust.map((trust, place) => [trust.join(), place]));
  const read = new Map();

  // What the numbers are

  async function states(clip) {
    if (!read.has(clip)) {
      const bytes = Uint8Array.from(atob(clip.states), (letter) => letter.charCodeAt(0));
      const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      read.set(clip, new Uint8Array(await new Response(plain).arrayBuffer()));
    }
    return read.get(clip);
  }

  // Values are column after column; a row is 5 probabilities, the answer, and T and A by layer.
  function look(value) {
    const shares = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const text = value(6 + 2 * layer) / 255;
      const audio = value(7 + 2 * layer) / 255;
      shares.push([text, audio, Math.max(0, 1 - text - audio)]);
    }
    const letters = data.classes.map((_, k) => value(k) / 255);
    return { letters, answer: value(5), shares };
  }

  // As in the model: no trust at all counts as equal, and only proportions matter.
  function scaled(trust) {
    const most = Math.max(...trust);
    return most ? trust.map((value) => value / most) : trust.map(() => 1);
  }

  function row(state) {
    const places = {
      place: grid.place.indexOf(state.place),
      preference: grid.preference.indexOf(state.preference),
      gamma: state.gamma,
      eta: state.eta,
      trust: trusts.get(scaled(state.trust).join()),
    };
    return Object.keys(grid).reduce((index, name) => index * grid[name].length + places[name], 0);
  }

  // How they are shown

  const make = (name, attributes = {}, ...children) => {
    const svg = ["svg", "polyline", "line", "text", "circle"].includes(name);
    const found = svg
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => found.setAttribute(key, value));
    found.append(...children);
    return found;
  };
  const two = (value) => value.toFixed(2);
  const named = (k) => data.classes[k];

  function bars(before, after, truth) {
    const columns = data.classes.map((name, k) => {
      const pair = [["before", before], ["after", after]].map(([which, seen]) =>
        make("span", { class: `live-bar live-bar-${which}`, style: `height:${100 * seen.letters[k]}%`,
          "data-value": two(seen.letters[k]) }));
      const label = make("span", { class: "live-label" }, name);
      if (k === truth) label.append(make("b", {}, "GT"));
      const answered = k === after.answer ? " live-answered" : "";
      return make("div", { class: `live-column${answered}` },
        make("div", { class: "live-pair" }, ...pair), make("span", { class: "live-value" },
          two(after.letters[k])), label);
    });
    at("bars").replaceChildren(...columns);
    const words = data.classes.map((name, k) => `${name} ${two(after.letters[k])}`).join(", ");
    at("bars").setAttribute("aria-label", `Probabilities after steering: ${words}`);
  }

  function budget(before, after) {
    const wide = 300, tall = 150, left = 26, top = 8;
    const x = (layer) => left + ((layer + 0.5) * (wide - left - 24)) / layers;
    const y = (share) => top + (1 - share) * tall;
    const parts = [0, 0.5, 1].flatMap((value) => [
      make("line", { x1: left, x2: wide - 20, y1: y(value), y2: y(value), class: "live-grid" }),
      make("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
    ]);
    for (let layer = 0; layer < layers; layer += 1) {
      parts.push(make("text", { x: x(layer), y: top + tall + 16, "text-anchor": "middle" }, `${layer + 1}`));
    }
    data.modalities.forEach((name, m) => {
      const curve = (seen) => seen.shares.map((share, layer) => `${x(layer)},${y(share[m])}`).join(" ");
      parts.push(make("polyline", { points: curve(before), class: `live-line live-${name} live-dashed` }));
      parts.push(make("polyline", { points: curve(after), class: `live-line live-${name}` }));
      after.shares.forEach((share, layer) => parts.push(
        make("circle", { cx: x(layer), cy: y(share[m]), r: 2.5, class: `live-dot live-${name}` })));
    });
    // Names beside the lines' ends, apart from one another.
    const ends = data.modalities.map((name, m) => ({ name, y: y(after.shares[layers - 1][m]) + 4 }));
    ends.sort((a, b) => a.y - b.y).forEach((end, k) => {
      if (k) end.y = Math.max(end.y, ends[k - 1].y + 12);
    });
    const over = Math.max(0, ends[2].y - (top + tall + 4));
    ends.forEach((end) => parts.push(
      make("text", { x: wide - 16, y: end.y - over, class: "live-name" }, end.name)));
    const svg = make("svg", { viewBox: `0 0 ${wide} ${top + tall + 22}`, "aria-hidden": "true" }, ...parts);
    at("budget").replaceChildren(svg);
    const last = after.shares[layers - 1];
    const words = data.modalities.map((name, m) => `${NAMES[name]} ${two(last[m])}`).join(", ");
    at("budget").setAttribute("aria-label", `Attention budget after steering, last layer: ${words}`);
  }

  function table(id, head, rows) {
    const heading = make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)));
    const body = rows.map(([first, ...cells]) => make("tr", {},
      make("th", { scope: "row" }, first), ...cells.map((text) => make("td", {}, text))));
    const caption = at(id).querySelector("caption");
    at(id).replaceChildren(caption, make("thead", {}, heading), make("tbody", {}, ...body));
  }

  function tables(before, after) {
    table("answers", ["", ...data.classes, "answer"], [["before", before], ["after", after]].map(
      ([name, seen]) => [name, ...seen.letters.map(two), named(seen.answer)]));
    const head = ["layer", ...["before", "after"].flatMap((which) =>
      data.modalities.map((name) => `${name} ${which}`))];
    table("shares", head, before.shares.map((share, layer) =>
      [`${layer + 1}`, ...share.map(two), ...after.shares[layer].map(two)]));
  }

  function verdict(before, after, truth) {
    const right = (k) => (k === truth ? "right" : "wrong");
    const moved = before.answer === after.answer
      ? `The answer stays ${named(after.answer)}, which is ${right(after.answer)}.`
      : `The answer moves from ${named(before.answer)} to ${named(after.answer)}: from ` +
        `${right(before.answer)} to ${right(after.answer)}.`;
    const chance = `${named(truth)}, the ground truth, has ${two(after.letters[truth])}`;
    at("verdict").textContent = `${moved} ${chance} (${two(before.letters[truth])} unsteered).`;
  }

  // What the reader does

  const controls = [...data.modalities, "gamma", "eta", "preference", "place"];

  function state() {
    return {
      trust: data.modalities.map((name) => Number(at(name).value)),
      gamma: Number(at("gamma").value),
      eta: Number(at("eta").value),
      preference: at("preference").value,
      place: at("place").value,
    };
  }

  function say(name) {
    const value = name in NAMES ? at(name).value : grid[name][at(name).value];
    at(name).setAttribute("aria-valuetext", value);
    at(name).parentElement.querySelector("output").value = value;
  }

  async function show() {
    const clip = data.clips[at("clip").value];
    const flat = await states(clip);
    // Another clip may have been chosen meanwhile.
    if (clip !== data.clips[at("clip").value]) return;
    [...data.modalities, "gamma", "eta"].forEach(say);
    const index = row(state());
    const before = look((column) => clip.before[column]);
    const after = look((column) => flat[column * settings + index]);
    const [truth] = clip.labels;
    bars(before, after, truth);
    budget(before, after);
    tables(before, after);
    verdict(before, after, truth);
    document.getElementById("live").setAttribute("aria-busy", "false");
  }

  function clipChosen() {
    const clip = data.clips[at("clip").value];
    const labels = ["ground truth", "text", "audio", "video"].map((name, k) =>
      `${name} ${named(clip.labels[k])}`);
    at("words").replaceChildren(make("q", { lang: clip.language }, clip.text),
      make("span", {}, ` Labels: ${labels.join(", ")}.`));
    at("frames").src = clip.frames;
    at("frames").alt = `Four frames of the clip: a drawn face that shows ${named(clip.labels[3])}`;
    show();
  }

  function reset() {
    Object.entries(PUBLISHED).forEach(([name, value]) => {
      at(name).value = typeof value === "number" ? grid[name].indexOf(value) : value;
    });
    show();
  }

  function choices(id, pairs) {
    at(id).replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  }

  const corpora = { ch_sims_v2: "CH-SIMS", cmu_mosi: "CMU-MOSI" };
  choices("clip", data.clips.map((clip, k) =>
    [k, `${corpora[clip.name.split("/")[0]]}: ${clip.kind} (${clip.name.split("/").slice(1).join("/")})`]));
  choices("preference", grid.preference.map((name) => [name, name]));
  choices("place", [
    ["published", `${data.top_k}, from layer ${data.first_layer}`],
    ["everywhere", "all, in all layers"],
  ]);
  at("gamma").max = grid.gamma.length - 1;
  at("eta").max = grid.eta.length - 1;
  at("clip").value = data.clips.findIndex((clip) => clip.kind === "video alone is right");
  at("clip").addEventListener("change", clipChosen);
  at("reset").addEventListener("click", reset);
  controls.forEach((name) => at(name).addEventListener("input", show));
  Object.entries(TRUST).forEach(([name, value]) => { at(name).value = value; });
  reset();
  clipChosen();
})();
