// The similarity of a video to a query over time, as SVG.

import { draw } from "./elements.js";
import { formatScore, moment, share } from "./numbers.js";

const HEIGHT = 250;
const EDGE = { left: 48, right: 14, top: 24, bottom: 26 };

/**
 * `times` in seconds, `scores` (null without a query), `seconds`: length of the video, `width` in pixels.
 * -> {svg, move(time), timeAt(x)}: `move` places the cursor, `timeAt` reads a click.
 */
export function plot({ times, scores, seconds, width }) {
  const inner = Math.max(width - EDGE.left - EDGE.right, 40);
  const low = scores ? Math.min(...scores) : 0;
  const high = scores ? Math.max(...scores) : 1;
  const x = time => EDGE.left + inner * Math.min(time / Math.max(seconds, 0.001), 1);
  const bottom = HEIGHT - EDGE.bottom;
  const y = score => bottom - (bottom - EDGE.top) * share(score, low, high);
  const svg = draw("svg", {
    class: "plot",
    width,
    height: HEIGHT,
    viewBox: `0 0 ${width} ${HEIGHT}`,
    "aria-hidden": "true", // the slider around it is announced instead
  });
  svg.append(...timeAxis(seconds, x, bottom, inner));
  const cursor = draw("line", { class: "cursor", y1: EDGE.top - 8, y2: bottom });
  if (scores) svg.append(...scoreAxis(low, high, y, width));
  svg.append(cursor);
  if (scores) svg.append(...line(times, scores, x, y, bottom));
  return {
    svg,
    move(time) {
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(time));
    },
    timeAt: at => (Math.max(0, Math.min(at - EDGE.left, inner)) / inner) * seconds,
  };
}

function timeAxis(seconds, x, bottom, inner) {
  const steps = Math.max(1, Math.min(6, Math.floor(inner / 90)));
  return Array.from({ length: steps + 1 }, (_, step) => {
    const time = (seconds * step) / steps;
    const anchor = step === 0 ? "start" : step === steps ? "end" : "middle";
    return draw("text", { class: "tick", x: x(time), y: bottom + 18, "text-anchor": anchor },
      moment(time));
  });
}

function scoreAxis(low, high, y, width) {
  const middle = (low + high) / 2;
  const values = high > low ? [low, middle, high] : [low];
  return values.flatMap(value => [
    draw("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
    draw("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" },
      value.toFixed(2)),
  ]);
}

function line(times, scores, x, y, bottom) {
  const points = times.map((time, index) => `${x(time).toFixed(1)},${y(scores[index]).toFixed(1)}`);
  const best = scores.indexOf(Math.max(...scores));
  const ends = [`${x(times[0])},${bottom}`, `${x(times.at(-1))},${bottom}`];
  const label = { x: x(times[best]), y: y(scores[best]) - 8 };
  return [
    draw("polygon", { class: "area", points: [ends[0], ...points, ends[1]].join(" ") }),
    draw("polyline", { class: "line", points: points.join(" ") }),
    ...times.map((time, index) => draw("circle", {
      class: index === best ? "dot best" : "dot",
      cx: x(time),
      cy: y(scores[index]),
      r: index === best ? 5 : 2.5,
    })),
    draw("text", { class: "peak", ...label, "text-anchor": anchorFor(label.x) },
      formatScore(scores[best])),
  ];
}

const anchorFor = x => (x < EDGE.left + 24 ? "start" : "middle");
