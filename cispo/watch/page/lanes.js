// Who was busy when, a few iterations at a time.

import { ask, el, hideTip, seconds, showTip, svg, ticks } from "./dom.js";

const PHASES = {
  sample: ["#8ab4f8", "waits for samples"],
  learn: ["#e4572e", "learns"],
  publish: ["#7c4dbd", "publishes weights"],
  evaluate: ["#159a72", "evaluates"],
  checkpoint: ["#b4540a", "asks for a checkpoint"],
};
const STARTING = ["#c5ccd6", "starts"];
const COUNTS = [1, 2, 5, 10, 20, 50];
const WIDTH = 1200;
const LEFT = 150;
const RIGHT = 62;
const ROW = 34;

const state = { last: null, count: 5 };

export async function showLanes(view, run, isCurrent) {
  const newest = run.last_step ?? 0;
  const last = Math.min(state.last ?? newest, newest);
  const answer = await ask("lanes", { last, count: state.count });
  if (!isCurrent()) return;
  const again = () => showLanes(view, run, isCurrent);
  const move = (by) => () => {
    const next = Math.max(state.count - 1, Math.min(newest, last + by));
    state.last = next >= newest ? null : next;
    again();
  };
  const first = Math.max(0, answer.first);
  view.replaceChildren(
    el(
      "div",
      { className: "bar" },
      el("button", { onclick: move(-state.count), title: "earlier" }, "←"),
      el("b", {}, first === last ? `iteration ${last}` : `iterations ${first} to ${last}`),
      el("button", { onclick: move(state.count), title: "later" }, "→"),
      state.last === null ? el("span", { className: "pill live" }, "newest") : el("button", { onclick: () => { state.last = null; again(); } }, "newest"),
      el("span", { className: "muted" }, "show"),
      COUNTS.map((count) => el("button", { "aria-pressed": `${count === state.count}`, onclick: () => { state.count = count; again(); } }, `${count}`)),
    ),
    picture(answer.lanes),
    key(),
    el("p", { className: "muted small" }, explanation(answer)),
  );
}

function explanation(answer) {
  if (!answer.is_recorded) {
    return "This run has no timeline.jsonl: what is shown is each phase's time, once an iteration, in the order of the loop. Engines and rewards were not recorded.";
  }
  return "An engine is busy while a request of it is under way, the rewards while a rollout is being graded, the learner while it takes an optimizer step. In a synchronous run engine and learner take turns; in an asynchronous one both should be filled.";
}

function key() {
  const items = [STARTING, ...Object.values(PHASES)].map(([colour, name]) => {
    const mark = el("i");
    mark.style.background = colour;
    return el("li", {}, mark, name);
  });
  return el("ul", { className: "legend" }, el("li", { className: "muted" }, "the loop:"), items);
}

function rows(lanes) {
  const loop = [];
  const found = new Map();
  for (const [lane, spells] of Object.entries(lanes)) {
    const [area, name] = lane.split(/\/(.*)/);
    if (area === "loop") loop.push(...spells.map((spell) => ({ spell, name, colour: (PHASES[name] ?? STARTING)[0] })));
    else found.set(area === "engine" ? name : lane, spells.map((spell) => ({ spell, name: lane, colour: area === "engine" ? "#2563eb" : area === "rewards" ? "#159a72" : area === "learner" ? "#e4572e" : "#b4540a" })));
  }
  const engines = [...found.keys()].filter((name) => !["rewards", "learner", "checkpoint write"].includes(name)).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const others = ["rewards", "learner", "checkpoint write"].filter((name) => found.has(name));
  return [["the loop", loop], ...[...engines, ...others].map((name) => [name, found.get(name)])];
}

function picture(lanes) {
  const all = Object.values(lanes).flat();
  if (!all.length) return el("p", { className: "muted" }, "Nothing recorded yet.");
  const begin = all.reduce((least, [b]) => Math.min(least, b), Infinity);
  const end = all.reduce((most, [, e]) => Math.max(most, e), begin + 1e-3);
  const x = (time) => LEFT + ((time - begin) / (end - begin)) * (WIDTH - LEFT - RIGHT);
  const found = rows(lanes);
  const height = found.length * ROW + 26;
  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": "lanes" });
  for (const tick of ticks(0, end - begin, 10)) {
    const at = x(begin + tick);
    image.append(svg("line", { class: "grid", x1: at, x2: at, y1: 0, y2: height - 20 }));
    image.append(svg("text", { class: "tick", x: at, y: height - 5, "text-anchor": "middle" }, seconds(tick)));
  }
  found.forEach(([name, spells], index) => {
    const y = index * ROW + 5;
    const shown = svg("text", { x: LEFT - 10, y: y + 17, "text-anchor": "end" }, name.length > 20 ? `${name.slice(0, 19)}…` : name);
    image.append(shown, svg("rect", { x: LEFT, y, width: WIDTH - LEFT - RIGHT, height: ROW - 10, fill: "#f3f5f9", rx: 3 }));
    const busy = union(spells.map(({ spell }) => spell)) / (end - begin);
    image.append(svg("text", { x: WIDTH - RIGHT + 8, y: y + 17 }, `${Math.round(100 * busy)} %`));
    for (const piece of merged(spells, 0.4 * ((end - begin) / WIDTH))) {
      const width = Math.max(0.6, x(piece.spell[1]) - x(piece.spell[0]));
      const box = svg("rect", { x: x(piece.spell[0]), y, width, height: ROW - 10, fill: piece.colour, rx: width > 4 ? 2 : 0 });
      box.addEventListener("pointermove", (event) => showTip(event, `${piece.name}\n${seconds(piece.spell[1] - piece.spell[0])}, from ${seconds(piece.spell[0] - begin)} on`));
      box.addEventListener("pointerleave", hideTip);
      image.append(box);
    }
  });
  return el("div", { className: "lanes" }, image);
}

// Pieces too near to be told apart on the screen become one.
function merged(spells, gap) {
  const found = [];
  for (const { spell, name, colour } of [...spells].sort((a, b) => a.spell[0] - b.spell[0])) {
    const before = found.at(-1);
    if (before && before.name === name && spell[0] - before.spell[1] < gap) {
      before.spell = [before.spell[0], Math.max(before.spell[1], spell[1])];
    } else found.push({ spell, name, colour });
  }
  return found;
}

function union(spells) {
  let total = 0;
  let reached = -Infinity;
  for (const [begin, end] of [...spells].sort((a, b) => a[0] - b[0])) {
    total += Math.max(0, end - Math.max(begin, reached));
    reached = Math.max(reached, end);
  }
  return total;
}
