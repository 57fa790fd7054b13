// The video view: the player, the similarity to the query over time, and the frames to seek to.

import { make } from "./elements.js";
import { curve, formatScore, moment } from "./numbers.js";
import { plot } from "./plot.js";
import { Strip } from "./strip.js";

const CHOICES = [8, 16, 32, 64, 128, 256];
const INTO_FRAME = 0.002; // seconds: rounding must not show the previous frame

export class VideoView {
  #item = null;
  #drawn = {}; // {item, frames, query}
  #plot = null;
  #scores = null;
  #at = 0; // index of the current frame among the sampled ones

  /** `onsample(item)`: embed the video again with its `sampled` number of frames. */
  constructor(element, collection, thumbnails, onsample) {
    Object.assign(this, { collection, onsample });
    this.strip = new Strip(thumbnails, index => this.#jump(index), () => this.#mark());
    this.#build(element);
    new ResizeObserver(() => this.#drawPlot()).observe(this.slider);
  }

  #build(element) {
    this.heading = make("p", { class: "heading" });
    this.choice = make("select", { id: "video-choice", onchange: () => this.#choose() });
    this.count = make("select", { id: "video-frames", onchange: () => this.#sample() },
      ...CHOICES.map(each => make("option", { value: each }, String(each))));
    this.player = make("video", {
      controls: true,
      playsinline: true,
      preload: "auto",
      ontimeupdate: () => this.#follow(),
      onloadedmetadata: () => this.#drawPlot(),
    });
    this.player.muted = true;
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
        make("label", { for: "video-choice" }, "Video"), this.choice,
        make("label", { for: "video-frames" }, "Frames"), this.count),
      make("div", { class: "screen" }, this.player, this.slider),
      this.strip.list, this.strip.pager.element);
    element.append(this.heading, this.body);
  }

  /** Show a video at one of its frames. */
  show(item, frame) {
    this.#item = item;
    this.draw();
    this.#jump(frame);
  }

  /** Redraw what changed; the rest stays, to keep the focus. */
  draw() {
    const { videos, query } = this.collection;
    if (!videos.includes(this.#item)) this.#item = videos[0] ?? null;
    const item = this.#item;
    this.body.hidden = item === null;
    this.heading.textContent = headingOf(item, query);
    if (item === null) {
      this.player.removeAttribute("src");
      this.#drawn = {};
      return;
    }
    const next = { item, frames: item.frames, query };
    if (Object.keys(next).some(key => next[key] !== this.#drawn[key])) this.#reset(next);
    this.#list(videos);
    this.strip.draw(item, this.#scores);
    if (!this.#plot) this.#drawPlot();
    this.#mark();
  }

  #reset({ item, frames, query }) {
    if (frames !== this.#drawn.frames) this.#at = 0;
    this.#drawn = { item, frames, query };
    if (this.player.src !== item.address) this.player.src = item.address;
    this.player.setAttribute("aria-label", item.name);
    this.#scores = query === null || query === item ? null : curve(query, item);
    this.#drawPlot();
    if (this.#scores && this.player.paused) this.#jump(this.#scores.indexOf(Math.max(...this.#scores)));
  }

  #list(videos) {
    const names = videos.map(video => video.name);
    const options = [...this.choice.options].map(option => option.text);
    if (names.join("\n") !== options.join("\n")) {
      this.choice.replaceChildren(...names.map((name, index) => make("option", { value: index }, name)));
    }
    this.choice.value = videos.indexOf(this.#item);
    this.count.value = this.#item.sampled;
  }

  get #seconds() {
    const last = this.#item.frames.at(-1)?.timestamp ?? 0;
    return Math.max(Number.isFinite(this.player.duration) ? this.player.duration : 0, last, 0.1);
  }

  #drawPlot() {
    const item = this.#item;
    const width = Math.floor(this.slider.clientWidth);
    if (item === null || !width) return;
    const times = item.frames.map(frame => frame.timestamp);
    this.#plot = plot({ times, scores: this.#scores, seconds: this.#seconds, width });
    this.slider.replaceChildren(this.#plot.svg);
    this.slider.setAttribute("aria-label", `Position in ${item.name}`);
    this.slider.setAttribute("aria-valuemax", this.#seconds.toFixed(1));
    this.#mark();
  }

  #choose() {
    this.show(this.collection.videos[Number(this.choice.value)], 0);
  }

  #sample() {
    this.#item.sampled = Number(this.count.value);
    this.onsample(this.#item);
  }

  #jump(index) {
    this.#at = index;
    this.player.currentTime = (this.#item.frames[index]?.timestamp ?? 0) + INTO_FRAME;
    this.#mark();
  }

  /** During playback, the current frame is the last one that has started. */
  #follow() {
    const frames = this.#item?.frames ?? [];
    if (!frames.length || this.player.paused) return;
    const time = this.player.currentTime;
    const after = frames.findIndex(frame => frame.timestamp > time + INTO_FRAME);
    this.#at = Math.max(0, (after < 0 ? frames.length : after) - 1);
    this.#mark(time);
  }

  #mark(time = this.#item.frames[this.#at]?.timestamp ?? 0) {
    const score = this.#scores ? `, similarity ${formatScore(this.#scores[this.#at])}` : "";
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
  if (item === null) return "Add a video to see where it matches a description.";
  if (query === null || query === item) {
    return `${item.frames.length} frames of ${item.name}. Describe something to see where it appears.`;
  }
  return `How well “${query.name}” matches ${item.name} over time, based on ${item.frames.length} frames.`;
}
