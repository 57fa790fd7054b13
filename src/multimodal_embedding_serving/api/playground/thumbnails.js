// Thumbnails of items, decoded when first shown: a thousand images take no more memory than those
// in view.

const SIDE = 384;
const MAX_CACHED = 200;

export class Thumbnails {
  #cache = new Map(); // item id -> Promise of an ImageBitmap or null, least recently used first

  /** Paint an item (or a frame of a video) on a canvas; if that is not possible, show its file type. */
  async paint(canvas, item, frame = 0) {
    const key = `${item.id}/${frame}`;
    const image = item.kind === "video" ? item.frames[frame]?.image : await this.#load(item);
    if (canvas.dataset.shown === key) return;
    const parent = canvas.parentElement;
    if (!image) {
      parent?.setAttribute("data-blank", extension(item.name));
      return;
    }
    parent?.removeAttribute("data-blank");
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.dataset.shown = key;
  }

  #load(item) {
    const bitmap = this.#cache.get(item.id) ?? decode(item.file);
    this.#cache.delete(item.id);
    this.#cache.set(item.id, bitmap);
    if (this.#cache.size > MAX_CACHED) this.#cache.delete(this.#cache.keys().next().value);
    return bitmap;
  }
}

/** A small copy; null for formats that the browser can't show, such as TIFF. */
async function decode(file) {
  try {
    return await createImageBitmap(file, { resizeWidth: SIDE, resizeQuality: "medium" });
  } catch {
    return null;
  }
}

const extension = name => name.split(".").pop().slice(0, 5).toUpperCase();

/** Set `image` of each frame of a video, one after the other; calls `onframe()` after each. */
export async function captureFrames(item, onframe) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = item.address;
  const { frames } = item;
  try {
    if (!await happens(video, "loadeddata")) return;
    const height = Math.round((SIDE * video.videoHeight) / Math.max(video.videoWidth, 1)) || 1;
    for (const frame of frames) {
      // Slightly after the frame's start: rounding must not show the previous frame.
      video.currentTime = frame.timestamp + 0.002;
      if (!await happens(video, "seeked") || item.frames !== frames) return;
      frame.image = await createImageBitmap(video, { resizeWidth: SIDE, resizeHeight: height });
      onframe();
    }
  } catch {
    // the browser can't play this video: its frames have times but no images
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
