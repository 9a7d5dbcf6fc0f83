// One rollout: its tokens in colours, its verdict in parts, and what the sandbox said.

import { ask, el, hideTip, number, showTip } from "./dom.js";
import { square, verdict } from "./rollouts.js";

const AT_ONCE = 4000;
const MODES = {
  logprobs: { name: "log-probability", low: "certain", high: "surprising", of: (token) => Math.min(1, Math.sqrt(Math.max(0, -token.logprob) / 4)), colour: heat },
  ratios: { name: "ratio", low: "÷2", high: "×2", of: (token) => (token.ratio === undefined || token.ratio === null ? null : Math.max(-1, Math.min(1, signedRoot(Math.log2(token.ratio))))), colour: diverging },
  advantage: { name: "advantage × ratio", low: "pushed down", high: "pulled up", of: (token) => (token.advantage === null ? null : Math.max(-1, Math.min(1, (token.advantage * (token.ratio ?? 1)) / 2.5))), colour: pull },
};
let mode = "logprobs";

// Lets small differences be seen beside large ones.
function signedRoot(value) {
  return Math.sign(value) * Math.sqrt(Math.abs(value));
}

function heat(value) {
  return `rgba(228, 87, 46, ${(0.85 * value).toFixed(3)})`;
}

function diverging(value) {
  return value < 0 ? `rgba(37, 99, 235, ${(-0.7 * value).toFixed(3)})` : `rgba(228, 87, 46, ${(0.8 * value).toFixed(3)})`;
}

function pull(value) {
  return value < 0 ? `rgba(194, 55, 15, ${(-0.75 * value).toFixed(3)})` : `rgba(21, 154, 114, ${(0.75 * value).toFixed(3)})`;
}

export async function showRollout(view, file, row, isCurrent) {
  const answer = await ask("rollout", { file, row });
  if (!isCurrent()) return;
  const { rollout } = answer;
  const answered = el("div");
  const draw = () => answered.replaceChildren(...(rollout.tokens ? coloured(rollout, draw) : plain(rollout)));
  draw();
  view.replaceChildren(
    el("div", { className: "bar" }, el("a", { href: "#rollouts" }, "← all rollouts"), el("b", {}, rollout.task_id), verdict(rollout), rollout.kind === "heldout" ? el("span", { className: "pill" }, "held-out") : null),
    el("div", { className: "bar" }, el("span", { className: "muted" }, `group ${rollout.group} of iteration ${answer.step}:`), el("span", { className: "squares" }, answer.members.map((member) => square(member, file, member.row === answer.row)))),
    el(
      "div",
      { className: "two" },
      el(
        "div",
        {},
        el("h2", {}, "Prompt"),
        rollout.messages.map((message) => el("div", {}, el("div", { className: "muted small" }, message.role), el("pre", {}, message.content))),
        el("h2", {}, "Answer"),
        answered,
        rollout.output ? [el("h2", {}, "Sandbox output"), el("pre", {}, rollout.output)] : null,
        el("h2", {}, "What it is judged by"),
        el("details", {}, el("summary", { className: "muted" }, `verifier ${rollout.verifier}`), el("pre", {}, JSON.stringify(rollout.truth, null, 2))),
      ),
      el("aside", {}, el("h2", {}, "Verdict"), verdictList(rollout), el("h2", {}, "Rollout"), facts(rollout, answer)),
    ),
  );
}

function verdictList(rollout) {
  if (rollout.ungraded !== null) return el("p", { className: "wrong" }, `ungraded: ${rollout.ungraded}`);
  const rows = [["reward", rollout.reward], ...Object.entries(rollout.parts).map(([part, value]) => [`part: ${part}`, value]), ["advantage", rollout.advantage]];
  return el("dl", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, number(value))]));
}

function facts(rollout, answer) {
  const versions = rollout.oldest_version === rollout.newest_version ? `${rollout.oldest_version}` : `${rollout.oldest_version} to ${rollout.newest_version}`;
  const rows = [
    ["source", rollout.source],
    ["ended by", rollout.stop_reason.replaceAll("_", " ")],
    ["sampled tokens", rollout.action_tokens],
    ["prompt tokens", rollout.prompt_tokens],
    ["mean log-probability", `${number(rollout.logprob_mean_nats)} nats`],
    ["policy version", versions],
    ["without signal", rollout.without_signal ? rollout.without_signal.replaceAll("_", " ") : "no"],
    ["file", answer.file],
    ["row", answer.row],
  ];
  return el("dl", { className: "small" }, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, `${value}`)]));
}

function plain(rollout) {
  const why = "Its single tokens were not recorded: they are for the first rollouts of a file (tracking.recorded_tokens).";
  return [el("div", { className: "text" }, rollout.response), el("p", { className: "muted small" }, why)];
}

function coloured(rollout, draw) {
  const { pieces, logprobs, ratios, num_left_out: numLeftOut } = rollout.tokens;
  const tokens = pieces.map((piece, i) => ({ piece, logprob: logprobs[i], ratio: ratios?.[i], advantage: rollout.advantage ?? null }));
  const has = { logprobs: true, ratios: Boolean(ratios), advantage: rollout.advantage !== null && rollout.advantage !== undefined };
  const shown = has[mode] ? mode : "logprobs";
  const chosen = MODES[shown];
  const text = el("div", { className: "text tokens" });
  const more = el("button");
  let drawn = 0;
  const add = () => {
    text.append(...tokens.slice(drawn, drawn + AT_ONCE).map((token, i) => span(token, drawn + i, chosen)));
    drawn = Math.min(tokens.length, drawn + AT_ONCE);
    more.hidden = drawn >= tokens.length;
    more.textContent = `show ${Math.min(AT_ONCE, tokens.length - drawn)} more of ${tokens.length} tokens`;
  };
  more.addEventListener("click", add);
  add();
  text.addEventListener("pointermove", (event) => {
    const token = tokens[event.target.dataset?.index];
    if (token) showTip(event, described(token));
    else hideTip();
  });
  text.addEventListener("pointerleave", hideTip);
  const buttons = Object.entries(MODES).map(([name, { name: label }]) =>
    el("button", { disabled: !has[name], title: has[name] ? "" : "not recorded for this rollout (tracking.scored_tokens)", "aria-pressed": `${name === shown}`, onclick: () => { mode = name; draw(); } }, label),
  );
  return [
    el("div", { className: "bar" }, el("span", { className: "muted" }, "coloured by"), buttons, scale(chosen)),
    text,
    more,
    el("p", { className: "muted small" }, [numLeftOut ? `${numLeftOut} more tokens were not recorded. ` : "", "Point at a token for its numbers. ↵ is a line break."].join("")),
  ];
}

function span(token, index, chosen) {
  const isForced = token.logprob === null;
  const element = el("span", { className: isForced ? "token forced" : "token" }, token.piece.replaceAll("\n", "↵\n"));
  element.dataset.index = index;
  const value = isForced ? null : chosen.of(token);
  if (value !== null) element.style.background = chosen.colour(value);
  return element;
}

function described(token) {
  const lines = [JSON.stringify(token.piece)];
  if (token.logprob === null) return [...lines, "not sampled: a tool's output or the template"].join("\n");
  lines.push(`log-probability ${number(token.logprob)} nats (${number(Math.exp(token.logprob), "%")})`);
  if (token.ratio !== undefined && token.ratio !== null) lines.push(`ratio pi/mu ${number(token.ratio)} after this iteration's updates`);
  if (token.advantage !== null) lines.push(`advantage ${number(token.advantage)}`);
  return lines.join("\n");
}

function scale(chosen) {
  const canvas = el("canvas", { width: 90, height: 12 });
  const brush = canvas.getContext("2d");
  const from = chosen.colour === heat ? 0 : -1;
  for (let i = 0; i < 90; i += 1) {
    brush.fillStyle = chosen.colour(from + ((1 - from) * i) / 89);
    brush.fillRect(i, 0, 1, 12);
  }
  return el("span", { className: "scale" }, chosen.low, canvas, chosen.high);
}
