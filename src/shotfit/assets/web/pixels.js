// From an upright picture of 8-bit RGBA rows to the model's input, as Pillow and NumPy make it.
//
//     const input = pixels(width, height, (left, top, width, count) => rgba, rule);   // Float32Array [3, size, size]
//
// rule is "preprocess" of export.json. Resizing follows Pillow's antialiased resampling bit for bit: weights as whole
// numbers of 22 bits, columns first, rounded to 8 bits between the two passes.

const BITS = 22;
const STRIP = 4_000_000; // pixels that are read at once

const FILTERS = {
  bicubic: { support: 2, at: bicubic },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
};

function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}

export function pixels(width, height, read, rule) {
  const plan = planned(width, height, rule);
  const columns = weights(plan.width, plan.resized[0], plan.left, plan.across, rule.interpolation);
  const rows = weights(plan.height, plan.resized[1], plan.top, plan.down, rule.interpolation);
  const first = Math.min(...rows.map((one) => one.start));
  const end = Math.max(...rows.map((one) => one.start + one.parts.length));

  const narrow = new Uint8Array((end - first) * plan.across * 3); // columns resized, rows as they are
  const strip = Math.max(1, Math.floor(STRIP / plan.width));
  for (let top = first; top < end; top += strip) {
    const count = Math.min(strip, end - top);
    const rgba = read(plan.offset[0], plan.offset[1] + top, plan.width, count);
    for (let row = 0; row < count; row++) {
      const line = row * plan.width * 4;
      let at = (top - first + row) * plan.across * 3;
      for (const { start, parts } of columns) {
        for (let channel = 0; channel < 3; channel++) {
          let sum = 1 << (BITS - 1);
          for (let k = 0, from = line + start * 4 + channel; k < parts.length; k++, from += 4) {
            sum = (sum + Math.imul(rgba[from], parts[k])) | 0;
          }
          narrow[at++] = clipped(sum >> BITS);
        }
      }
    }
  }

  const size = rule.size[0];
  const levels = new Uint8Array(size * size * 3).fill(rule.fill ?? 0);
  const span = plan.across * 3;
  rows.forEach(({ start, parts }, row) => {
    let at = ((plan.pad[1] + row) * size + plan.pad[0]) * 3;
    for (let column = 0; column < span; column++) {
      let sum = 1 << (BITS - 1);
      for (let k = 0, from = (start - first) * span + column; k < parts.length; k++, from += span) {
        sum = (sum + Math.imul(narrow[from], parts[k])) | 0;
      }
      levels[at++] = clipped(sum >> BITS);
    }
  });
  return normalized(levels, size, rule);
}

// What is kept of the picture, the size that this is resized to, and which part of that is shown, and where.
function planned(width, height, rule) {
  const size = rule.size[0];
  const offset = [0, 0];
  if (rule.resize === "squash") {
    return { width, height, offset, resized: [size, size], left: 0, top: 0, across: size, down: size, pad: [0, 0] };
  }
  if (rule.resize === "longest") {
    const ratio = Math.max(width, height) / size;
    const resized = [width, height].map((side) => Math.max(1, rounded(side / ratio)));
    const pad = resized.map((side) => Math.floor((size - side) / 2));
    return { width, height, offset, resized, left: 0, top: 0, across: resized[0], down: resized[1], pad };
  }
  const most = rule.longest_aspect * Math.min(width, height);
  if (width > most) [offset[0], width] = [Math.floor((width - most) / 2), most];
  if (height > most) [offset[1], height] = [Math.floor((height - most) / 2), most];
  const longer = Math.trunc((size * Math.max(width, height)) / Math.min(width, height));
  const resized = width <= height ? [size, longer] : [longer, size];
  const whole = rule.crop === "center-floor" ? Math.floor : rounded;
  const [left, top] = resized.map((side) => whole((side - size) / 2));
  return { width, height, offset, resized, left, top, across: size, down: size, pad: [0, 0] };
}

// Half goes to the even neighbour, as in Python.
function rounded(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

// For each place from `first`, `count` of them, of a side resized from `from` to `to`: where its pixels start, and
// their weights.
function weights(from, to, first, count, interpolation) {
  const places = Array.from({ length: count }, (_, number) => first + number);
  if (from === to) return places.map((start) => ({ start, parts: Int32Array.of(1 << BITS) }));
  const filter = FILTERS[interpolation];
  const scale = from / to;
  const stretched = Math.max(scale, 1);
  const support = filter.support * stretched;
  return places.map((place) => {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const exact = Array.from({ length: end - start }, (_, k) => filter.at((k + start - center + 0.5) * (1 / stretched)));
    const total = exact.reduce((sum, value) => sum + value, 0);
    const parts = exact.map((value) => (total === 0 ? value : value / total) * 2 ** BITS);
    return { start, parts: Int32Array.from(parts, (part) => Math.trunc(part < 0 ? part - 0.5 : part + 0.5)) };
  });
}

function clipped(level) {
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// [size, size, 3] of 8 bits to [3, size, size], in single precision at each step, as NumPy computes it.
function normalized(levels, size, rule) {
  const single = Math.fround;
  const tables = rule.mean.map((mean, channel) =>
    Float32Array.from({ length: 256 }, (_, level) =>
      single(single(single(level / 255) - single(mean)) / single(rule.std[channel])),
    ),
  );
  const area = size * size;
  const found = new Float32Array(3 * area);
  for (let at = 0; at < area; at++) {
    for (let channel = 0; channel < 3; channel++) {
      found[channel * area + at] = tables[channel][levels[at * 3 + channel]];
    }
  }
  return found;
}
