// A film: the player, its likeness to the query over time, and its frames to jump to.

import { make } from "./elements.js";
import { curve, likeness, moment } from "./numbers.js";
import { plot } from "./plot.js";
import { Strip } from "./strip.js";

const CHOICES = [8, 16, 32, 64, 128, 256];
const WITHIN = 0.002; // seconds into a frame: rounding must not show the one before it

export class Film {
  #item = null;
  #seen = {}; // what is drawn: {item, frames, query}
  #plot = null;
  #scores = null;
  #at = 0; // the place of the current frame among the sampled ones

  /** `onsample(item)`: embed the film again, with its `sampled` frames. */
  constructor(element, collection, pictures, onsample) {
    Object.assign(this, { collection, onsample });
    this.strip = new Strip(pictures, place => this.#jump(place), () => this.#mark());
    this.#build(element);
    new ResizeObserver(() => this.#drawPlot()).observe(this.slider);
  }

  #build(element) {
    this.heading = make("p", { class: "heading" });
    this.choice = make("select", { id: "film-choice", onchange: () => this.#choose() });
    this.count = make("select", { id: "film-frames", onchange: () => this.#sample() },
      ...CHOICES.map(each => make("option", { value: each }, String(each))));
    this.video = make("video", {
      controls: true,
      playsinline: true,
      preload: "auto",
      ontimeupdate: () => this.#follow(),
      onloadedmetadata: () => this.#drawPlot(),
    });
    this.video.muted = true;
    this.slider = make("div", {
      class: "slider",
      role: "slider",
      tabindex: 0,
      "aria-valuemin": 0,
      onkeydown: event => this.#step(event),
      onpointerdown: event => this.#point(event),
    });
    this.body = make("div", { hidden: true },
      make("div", { class: "row wrap choices" },
        make("label", { for: "film-choice" }, "Video"), this.choice,
        make("label", { for: "film-frames" }, "Frames"), this.count),
      make("div", { class: "screen" }, this.video, this.slider),
      this.strip.list, this.strip.pager.element);
    element.append(this.heading, this.body);
  }

  /** Show a film at one of its frames. */
  show(item, frame) {
    this.#item = item;
    this.draw();
    this.#jump(frame);
  }

  /** What has changed; the rest stays, and keeps the focus. */
  draw() {
    const { films, query } = this.collection;
    if (!films.includes(this.#item)) this.#item = films[0] ?? null;
    const item = this.#item;
    this.body.hidden = item === null;
    this.heading.textContent = headingOf(item, query);
    if (item === null) {
      this.video.removeAttribute("src");
      this.#seen = {};
      return;
    }
    const seen = { item, frames: item.frames, query };
    if (Object.keys(seen).some(key => seen[key] !== this.#seen[key])) this.#renew(seen);
    this.#list(films);
    this.strip.draw(item, this.#scores);
    if (!this.#plot) this.#drawPlot();
    this.#mark();
  }

  #renew({ item, frames, query }) {
    if (frames !== this.#seen.frames) this.#at = 0;
    this.#seen = { item, frames, query };
    if (this.video.src !== item.address) this.video.src = item.address;
    this.video.setAttribute("aria-label", item.name);
    this.#scores = query === null || query === item ? null : curve(query, item);
    this.#drawPlot();
  }

  #list(films) {
    const names = films.map(film => film.name);
    const listed = [...this.choice.options].map(option => option.text);
    if (names.join("\n") !== listed.join("\n")) {
      this.choice.replaceChildren(...names.map((name, place) => make("option", { value: place }, name)));
    }
    this.choice.value = films.indexOf(this.#item);
    this.count.value = this.#item.sampled;
  }

  get #seconds() {
    const last = this.#item.frames.at(-1)?.timestamp ?? 0;
    return Math.max(Number.isFinite(this.video.duration) ? this.video.duration : 0, last, 0.1);
  }

  #drawPlot() {
    const item = this.#item;
    const width = Math.floor(this.slider.clientWidth);
    if (item === null || !width) return;
    const times = item.frames.map(frame => frame.timestamp);
    this.#plot = plot({ times, scores: this.#scores, seconds: this.#seconds, width });
    this.slider.replaceChildren(this.#plot.svg);
    this.slider.setAttribute("aria-label", `Moment of ${item.name}`);
    this.slider.setAttribute("aria-valuemax", this.#seconds.toFixed(1));
    this.#mark();
  }

  #choose() {
    this.show(this.collection.films[Number(this.choice.value)], 0);
  }

  #sample() {
    this.#item.sampled = Number(this.count.value);
    this.onsample(this.#item);
  }

  #jump(place) {
    this.#at = place;
    this.video.currentTime = (this.#item.frames[place]?.timestamp ?? 0) + WITHIN;
    this.#mark();
  }

  /** While it plays: the frame that is shown is the last that has begun. */
  #follow() {
    const frames = this.#item?.frames ?? [];
    if (!frames.length || this.video.paused) return;
    const time = this.video.currentTime;
    const after = frames.findIndex(frame => frame.timestamp > time + WITHIN);
    this.#at = Math.max(0, (after < 0 ? frames.length : after) - 1);
    this.#mark(time);
  }

  #mark(time = this.#item.frames[this.#at]?.timestamp ?? 0) {
    const score = this.#scores ? `, similarity ${likeness(this.#scores[this.#at])}` : "";
    this.#plot?.move(time);
    this.slider.setAttribute("aria-valuenow", time.toFixed(1));
    this.slider.setAttribute("aria-valuetext", moment(time) + score);
    this.strip.mark(this.#at);
  }

  #step(event) {
    const last = this.#item.frames.length - 1;
    const to = {
      ArrowRight: this.#at + 1,
      ArrowUp: this.#at + 1,
      ArrowLeft: this.#at - 1,
      ArrowDown: this.#at - 1,
      PageUp: this.#at + 5,
      PageDown: this.#at - 5,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#jump(Math.max(0, Math.min(to, last)));
  }

  #point(event) {
    const time = this.#plot.timeAt(event.clientX - this.slider.getBoundingClientRect().left);
    const distances = this.#item.frames.map(frame => Math.abs(frame.timestamp - time));
    this.#jump(distances.indexOf(Math.min(...distances)));
  }
}

function headingOf(item, query) {
  if (item === null) return "Add a video to see where in it a description fits.";
  if (query === null || query === item) {
    return `${item.frames.length} frames of ${item.name}. Describe something to see where it fits.`;
  }
  return `How well “${query.name}” fits ${item.name} over time, by ${item.frames.length} frames.`;
}
