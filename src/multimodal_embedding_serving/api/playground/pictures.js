// Small pictures of items: decoded when first shown, so that a thousand photos cost no more memory
// than those in view.

const SIDE = 384;
const KEPT = 200;

export class Pictures {
  #kept = new Map(); // item id -> Promise of an ImageBitmap or null, the least recently used first

  /** Paint an item (or a frame of a film) on a canvas; where there is nothing to show, its kind. */
  async paint(canvas, item, frame = 0) {
    const wanted = `${item.id}/${frame}`;
    const picture = item.kind === "film" ? item.frames[frame]?.picture : await this.#of(item);
    if (canvas.dataset.shown === wanted) return;
    const place = canvas.parentElement;
    if (!picture) {
      place?.setAttribute("data-blank", extension(item.name));
      return;
    }
    place?.removeAttribute("data-blank");
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    canvas.dataset.shown = wanted;
  }

  #of(item) {
    const known = this.#kept.get(item.id) ?? decode(item.file);
    this.#kept.delete(item.id);
    this.#kept.set(item.id, known);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return known;
  }
}

/** A small copy; null for what browsers can't show, such as TIFF. */
async function decode(file) {
  try {
    return await createImageBitmap(file, { resizeWidth: SIDE, resizeQuality: "medium" });
  } catch {
    return null;
  }
}

const extension = name => name.split(".").pop().slice(0, 5).toUpperCase();

/** Fill in `picture` of a film's frames, one after the other; `onframe()` after each. */
export async function captureFrames(film, onframe) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = film.address;
  const { frames } = film;
  try {
    if (!await happens(video, "loadeddata")) return;
    const height = Math.round((SIDE * video.videoHeight) / Math.max(video.videoWidth, 1)) || 1;
    for (const frame of frames) {
      // A hair after the frame's start: rounding must not show the one before it.
      video.currentTime = frame.timestamp + 0.002;
      if (!await happens(video, "seeked") || film.frames !== frames) return;
      frame.picture = await createImageBitmap(video, { resizeWidth: SIDE, resizeHeight: height });
      onframe();
    }
  } catch {
    // a film that the browser can't play: its frames have times and no pictures
  } finally {
    video.removeAttribute("src");
    video.load();
  }
}

function happens(target, event) {
  return new Promise(done => {
    const late = setTimeout(() => done(false), 10000);
    const settle = value => () => { clearTimeout(late); done(value); };
    target.addEventListener(event, settle(true), { once: true });
    target.addEventListener("error", settle(false), { once: true });
  });
}
