// Finding rollouts: by iteration and group, or by filters and text over all of the run.

import { ask, el, number } from "./dom.js";

const LIMIT = 50;
const PATIENCE_MS = 300;

const query = { mode: "groups", file: "", start: 0 };
const empty = { kind: "", step: "", source: "", stop: "", verdict: "", reward_min: "", reward_max: "", text: "", order: "newest" };
let filters = { ...empty };

export async function showRollouts(view, run, isCurrent) {
  const results = el("div");
  const { steps } = run.rollouts;
  const files = [
    ...steps.iteration.map((step) => ({ step, kind: "iteration" })),
    ...steps.heldout.map((step) => ({ step, kind: "heldout" })),
  ].sort((a, b) => b.step - a.step || a.kind.localeCompare(b.kind));
  const isNow = () => isCurrent() && results.isConnected;
  const mode = (name, text) => el("button", { "aria-pressed": `${query.mode === name}`, onclick: () => { query.mode = name; showRollouts(view, run, isCurrent); } }, text);
  view.replaceChildren(
    el("div", { className: "bar" }, mode("groups", "Groups of an iteration"), mode("search", "Search all rollouts"), counted(run.rollouts)),
    query.mode === "groups" ? iterationBar(files, results, isNow) : filterBar(run.rollouts, results, isNow),
    results,
  );
  if (!files.length) {
    results.replaceChildren(el("p", { className: "muted" }, run.rollouts.num_waiting_files ? "The rollouts are being indexed …" : "No rollouts are recorded yet (tracking.rollouts_every)."));
  } else if (query.mode === "groups") await showGroups(files, results, isNow);
  else await search(results, isNow);
}

function counted(rollouts) {
  const broken = Object.keys(rollouts.broken).length;
  const text = [
    `${rollouts.num.toLocaleString("en")} rollouts`,
    rollouts.num_waiting_files ? `${rollouts.num_waiting_files} files still to be indexed` : "",
    broken ? `${broken} files cannot be read` : "",
  ];
  return el("span", { className: "muted small", title: Object.entries(rollouts.broken).map((pair) => pair.join(": ")).join("\n") }, text.filter(Boolean).join(" · "));
}

function nameOf({ kind, step }) {
  return `${kind}_${`${step}`.padStart(6, "0")}.jsonl.gz`;
}

function iterationBar(files, results, isNow) {
  const chosen = Math.max(0, files.findIndex((file) => nameOf(file) === query.file));
  const pick = el(
    "select",
    { onchange: (event) => { query.file = event.target.value; showGroups(files, results, isNow); } },
    files.map((file, index) => el("option", { value: nameOf(file), selected: index === chosen }, file.kind === "heldout" ? `held-out evaluation after iteration ${file.step}` : `iteration ${file.step}`)),
  );
  const move = (by) => () => {
    const next = Math.min(files.length - 1, Math.max(0, pick.selectedIndex + by));
    pick.selectedIndex = next;
    query.file = pick.value;
    showGroups(files, results, isNow);
  };
  return el("div", { className: "bar" }, el("button", { onclick: move(1), title: "earlier" }, "←"), pick, el("button", { onclick: move(-1), title: "later" }, "→"), squaresKey());
}

function squaresKey() {
  const one = (kind, text) => el("span", { className: "key small muted" }, el("span", { className: `square ${kind}` }), text);
  return el("span", { className: "bar" }, one("good", "right"), one("part", "in part"), one("bad", "wrong"), one("", "ungraded"));
}

export function square(member, file, isHere = false) {
  const graded = member.correct !== null;
  const kind = !graded ? "" : member.correct >= 1 ? "good" : member.correct > 0 ? "part" : "bad";
  const text = graded ? `reward ${number(member.reward)}` : "ungraded";
  return el("a", { className: `square ${kind} ${isHere ? "here" : ""}`, href: `#rollout/${file}/${member.row}`, title: `${text}, ${member.tokens} tokens` });
}

async function showGroups(files, results, isNow) {
  const file = query.file || nameOf(files[0]);
  const answer = await ask("groups", { file }).catch((error) => ({ error }));
  if (!isNow()) return;
  if (answer.error) {
    results.replaceChildren(el("p", { className: "wrong" }, answer.error.message));
    return;
  }
  const rows = answer.groups.map((group) => {
    const graded = group.members.filter((member) => member.reward !== null);
    const mean = (name) => (graded.length ? graded.reduce((sum, member) => sum + member[name], 0) / graded.length : null);
    return el(
      "tr",
      {},
      el("td", { className: "number" }, `${group.group}`),
      el("td", {}, group.source),
      el("td", {}, el("div", { className: "squares" }, group.members.map((member) => square(member, file)))),
      el("td", { className: "number" }, number(mean("correct"), "%")),
      el("td", { className: "number" }, number(mean("reward"))),
      el("td", { className: "number" }, number(mean("tokens"))),
      el("td", { className: "muted small" }, group.dropped ? "no signal: dropped" : ""),
    );
  });
  results.replaceChildren(
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ["group", "source", "rollouts", "right", "reward", "tokens", ""].map((text, i) => el("th", { className: [0, 3, 4, 5].includes(i) ? "number" : "" }, text)))),
      el("tbody", {}, rows),
    ),
  );
}

function filterBar(known, results, isNow) {
  const run = () => { query.start = 0; search(results, isNow); };
  let waiting = 0;
  const typed = (name) => (event) => {
    filters[name] = event.target.value;
    clearTimeout(waiting);
    waiting = setTimeout(run, PATIENCE_MS);
  };
  const choice = (name, label, values, texts = values) =>
    el(
      "select",
      { title: label, onchange: (event) => { filters[name] = event.target.value; run(); } },
      name === "order" ? [] : el("option", { value: "" }, label),
      values.map((value, i) => el("option", { value, selected: filters[name] === value }, texts[i])),
    );
  const box = (name, label, width) => {
    const input = el("input", { type: name === "text" ? "search" : "text", placeholder: label, title: label, value: filters[name], oninput: typed(name) });
    if (width) input.style.width = width;
    else input.className = "grow";
    return input;
  };
  return el(
    "div",
    { className: "bar" },
    box("text", "text of task, answer or output", ""),
    choice("kind", "training and held-out", ["iteration", "heldout"], ["training", "held-out"]),
    choice("source", "all sources", known.sources),
    choice("verdict", "all verdicts", known.verdicts),
    choice("stop", "all ends", known.stops),
    box("step", "iteration", "6rem"),
    box("reward_min", "reward from", "7rem"),
    box("reward_max", "to", "4.5rem"),
    choice("order", "order", known.orders),
    el("button", { onclick: () => { filters = { ...empty }; dispatchEvent(new HashChangeEvent("hashchange")); } }, "clear"),
  );
}

async function search(results, isNow) {
  const asked = JSON.stringify([filters, query.start]);
  let answer;
  do {
    answer = await ask("rollouts", { ...filters, start: query.start, limit: LIMIT }).catch((error) => ({ error }));
    if (!isNow() || asked !== JSON.stringify([filters, query.start])) return;
    results.replaceChildren(...found(answer, results, isNow));
  } while (!answer.error && answer.num_searched < answer.num_rollouts);
}

function found(answer, results, isNow) {
  if (answer.error) return [el("p", { className: "wrong" }, answer.error.message)];
  const whole = answer.num_searched >= answer.num_rollouts;
  const searched = whole ? "" : ` so far, ${answer.num_searched.toLocaleString("en")} of ${answer.num_rollouts.toLocaleString("en")} searched …`;
  const last = Math.min(answer.total, answer.start + LIMIT);
  const shown = answer.total ? `${answer.start + 1} to ${last} shown` : "";
  const page = (start) => () => { query.start = start; search(results, isNow); };
  const bar = el(
    "div",
    { className: "bar" },
    el("b", {}, `${answer.total.toLocaleString("en")} found`),
    el("span", { className: "muted" }, `${shown}${searched}`),
    answer.start ? el("button", { onclick: page(Math.max(0, answer.start - LIMIT)) }, "← back") : null,
    last < answer.total ? el("button", { onclick: page(last) }, "more →") : null,
  );
  const head = ["iteration", "task", "verdict", "reward", "tokens", "end", "the end of the answer"];
  return [
    bar,
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, head.map((text, i) => el("th", { className: [0, 3, 4].includes(i) ? "number" : "" }, text)))),
      el("tbody", {}, answer.rollouts.map(listed)),
    ),
  ];
}

function listed(rollout) {
  const address = `#rollout/${rollout.file}/${rollout.row}`;
  return el(
    "tr",
    { className: "link", onclick: () => { location.hash = address; } },
    el("td", { className: "number" }, `${rollout.step}`, rollout.kind === "heldout" ? el("div", { className: "muted small" }, "held-out") : null),
    el("td", {}, el("a", { href: address }, rollout.task_id), el("div", { className: "muted small" }, rollout.source)),
    el("td", {}, verdict(rollout)),
    el("td", { className: "number" }, number(rollout.reward)),
    el("td", { className: "number" }, `${rollout.action_tokens}`),
    el("td", { className: "muted" }, rollout.stop_reason.replaceAll("_", " ")),
    el("td", {}, el("div", { className: "preview" }, rollout.preview.trim().replaceAll("\n", " ↵ "))),
  );
}

export function verdict(rollout) {
  if (rollout.ungraded !== null) return el("span", { className: "muted", title: rollout.ungraded }, "ungraded");
  const correct = rollout.parts.correct;
  if (correct >= 1) return el("span", { className: "right" }, "right");
  return el("span", { className: "wrong" }, correct > 0 ? `${number(correct, "%")} right` : "wrong");
}
