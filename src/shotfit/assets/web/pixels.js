// From an upright picture of 8-bit RGBA rows to the model's input, as Pillow and NumPy make it.
//
//     const input = pixels(width, height, (left, top, width, count) => rgba, rule);   // Float32Array [3, size, size]
//
// rule is "preprocess" of export.json. Resizing follows Pillow's antialiased resampling bit for bit: weights as whole
// numbers of 22 bits, and 8 bits between the two passes. Rows come first where the height loses more than twice what
// the width loses, as in Pillow 13, else columns (earlier versions: always).

const BITS = 22;
const HALF = 1 << (BITS - 1); // so that what is cut off is rounded
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
  const lines = source(read, plan, Math.min(...rows.map((one) => one.start)), Math.max(...rows.map((one) => one.end)));

  const lost = [plan.width - plan.resized[0], plan.height - plan.resized[1]];
  let levels; // [down, across, 3]
  if (lost[1] > 0 && lost[1] > 2 * lost[0]) {
    const low = [...lined(downwards(lines, rows, plan.width * 3), plan.width * 3)];
    levels = joined(low.map((line) => sideways(line, columns)));
  } else {
    levels = downwards(mapped(lines, (line) => sideways(line, columns)), rows, plan.across * 3);
  }

  const size = rule.size[0];
  const framed = new Uint8Array(size * size * 3).fill(rule.fill ?? 0);
  const span = plan.across * 3;
  for (let row = 0; row < plan.down; row++) {
    const line = levels.subarray(row * span, (row + 1) * span);
    framed.set(line, ((plan.pad[1] + row) * size + plan.pad[0]) * 3);
  }
  return normalized(framed, size, rule);
}

// The rows of the picture as RGB, from one to another, read a strip at a time.
function* source(read, plan, first, end) {
  const strip = Math.max(1, Math.floor(STRIP / plan.width));
  for (let top = first; top < end; top += strip) {
    const count = Math.min(strip, end - top);
    const rgba = read(plan.offset[0], plan.offset[1] + top, plan.width, count);
    for (let row = 0; row < count; row++) {
      const line = new Uint8Array(plan.width * 3);
      for (let at = 0, from = row * plan.width * 4; at < line.length; at += 3, from += 4) {
        line[at] = rgba[from];
        line[at + 1] = rgba[from + 1];
        line[at + 2] = rgba[from + 2];
      }
      yield [top + row, line];
    }
  }
}

function* mapped(lines, change) {
  for (const [place, line] of lines) yield [place, change(line)];
}

function* lined(levels, span) {
  for (let at = 0; at < levels.length; at += span) yield levels.subarray(at, at + span);
}

function joined(lines) {
  const found = new Uint8Array(lines.length * lines[0].length);
  lines.forEach((line, row) => found.set(line, row * line.length));
  return found;
}

// One row resized to the places of `columns`.
function sideways(line, columns) {
  const found = new Uint8Array(columns.length * 3);
  let at = 0;
  for (const { start, parts } of columns) {
    for (let channel = 0; channel < 3; channel++) {
      let sum = HALF;
      for (let k = 0, from = start * 3 + channel; k < parts.length; k++, from += 3) {
        sum = (sum + Math.imul(line[from], parts[k])) | 0;
      }
      found[at++] = clipped(sum >> BITS);
    }
  }
  return found;
}

// All rows resized to the places of `rows`, each row taken once and in order.
function downwards(lines, rows, span) {
  const sums = new Int32Array(rows.length * span).fill(HALF);
  let done = 0;
  for (const [place, line] of lines) {
    while (rows[done].end <= place) done++;
    for (let row = done; row < rows.length && rows[row].start <= place; row++) {
      const part = rows[row].parts[place - rows[row].start];
      const at = row * span;
      for (let column = 0; column < span; column++) sums[at + column] += Math.imul(line[column], part);
    }
  }
  return Uint8Array.from(sums, (sum) => clipped(sum >> BITS));
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
  if (from === to) return places.map((start) => ({ start, end: start + 1, parts: Int32Array.of(1 << BITS) }));
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
    return { start, end, parts: Int32Array.from(parts, (part) => Math.trunc(part < 0 ? part - 0.5 : part + 0.5)) };
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
