// Pictures of files for the screen: decoded at a small size, never kept at their own.

const MOST_PIXELS = 120e6;
const HEADER_BYTES = 256 * 1024;

// [width, height] as the file's header says, or null where this does not know the format.
export function headerSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const n = view.byteLength;
  const text = (start, end) => String.fromCharCode(...bytes.subarray(start, end));
  if (n >= 24 && view.getUint32(0) === 0x89504e47) return [view.getUint32(16), view.getUint32(20)];
  if (n >= 10 && text(0, 4) === "GIF8") return [view.getUint16(6, true), view.getUint16(8, true)];
  if (n >= 26 && text(0, 2) === "BM") return [Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true))];
  if (n >= 30 && text(0, 4) === "RIFF" && text(8, 12) === "WEBP") {
    const kind = text(12, 16);
    if (kind === "VP8X") return [24, 27].map((at) => 1 + (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16));
    if (kind === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
    if (kind === "VP8L") { const bits = view.getUint32(21, true); return [1 + (bits & 0x3fff), 1 + (bits >>> 14 & 0x3fff)]; }
  }
  if (n >= 4 && view.getUint16(0) === 0xffd8) {
    for (let at = 2; at + 9 < n;) {
      if (bytes[at] !== 0xff) return null;
      const marker = bytes[at + 1];
      if (marker === 0xff) { at += 1; continue; }
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
      at += marker >= 0xd0 && marker <= 0xd8 ? 2 : 2 + view.getUint16(at + 2);
    }
  }
  return null;
}

// A canvas whose longer side has at most `side` pixels, or null where the browser cannot show the file.
export async function picture(file, side) {
  try {
    const size = headerSize(new Uint8Array(await file.slice(0, HEADER_BYTES).arrayBuffer()));
    if (size && (size[0] * size[1] > MOST_PIXELS || !size[0] || !size[1])) return null;
    const options = size && Math.max(...size) > side
      ? (size[0] >= size[1] ? { resizeWidth: side } : { resizeHeight: side }) : {};
    const bitmap = await createImageBitmap(file, { ...options, resizeQuality: "medium" });
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // as the server puts transparent pictures on white
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas;
  } catch {
    return null;
  }
}

// Copies a picture onto a canvas that is there already; small ones keep their pixels as squares.
export function show(canvas, from) {
  canvas.width = from.width;
  canvas.height = from.height;
  canvas.getContext("2d").drawImage(from, 0, 0);
  canvas.classList.toggle("tiny", Math.max(from.width, from.height) <= 128);
}
