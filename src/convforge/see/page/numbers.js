// Numbers as people read them: a real minus sign, thousands separated, one precision in one grid.

const NOTHING = "–";

function minus(text) {
  return text.replace("-", "−");
}

/** 1234567 → "1,234,567". */
export function whole(value) {
  return Number.isFinite(value) ? minus(Math.round(value).toLocaleString("en")) : NOTHING;
}

/** 86704128 → "86.7 M", on one line; exact below ten thousand. */
export function compact(value) {
  if (!Number.isFinite(value)) return NOTHING;
  const units = [[1e15, "× 10¹⁵"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  if (Math.abs(value) < 1e4) return whole(value);
  const [size, unit] = units.find(([size]) => Math.abs(value) >= size);
  return `${minus((value / size).toPrecision(3).replace(/\.?0+$/, (zeros) => (zeros.startsWith(".") ? "" : zeros)))}\u00a0${unit}`;
}

/** A real number to so many significant digits: 0.0012345678 → "0.001235", 1.2e-9 → "1.200 × 10⁻⁹". */
export function real(value, digits = 4) {
  if (value === null || value === undefined) return NOTHING;
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "not a number" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e7) return power(value, digits);
  if (Number.isInteger(value)) return whole(value);
  return minus(value.toPrecision(digits).includes("e") ? String(Math.round(value)) : value.toPrecision(digits));
}

/** 0.00000012 → "1.2 × 10⁻⁷". */
export function power(value, digits = 2) {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return real(value);
  const [factor, exponent] = value.toExponential(digits - 1).split("e");
  const raised = String(Number(exponent)).replace(/./g, (sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)]));
  return `${minus(factor)} × 10${raised}`;
}

/** As many digits as a float32 has: enough to tell any two apart. */
export function exact(value) {
  return real(value, 9);
}

/** A function that writes all numbers of one grid alike: with as many decimals as its largest needs, and `more`. */
export function alike(values, more = 0) {
  let largest = 0;
  let integers = true;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    largest = Math.max(largest, Math.abs(value));
    integers = integers && Number.isInteger(value);
  }
  if (integers) return (value) => (Number.isFinite(value) ? minus(String(value)) : NOTHING);
  let decimals = 3;
  if (largest >= 1) decimals = Math.max(0, 3 - Math.floor(Math.log10(largest)));
  else if (largest < 0.1 && largest > 0) decimals = Math.min(6, 2 - Math.floor(Math.log10(largest)));
  decimals += more;
  return (value) => {
    if (!Number.isFinite(value)) return NOTHING;
    if (value === 0) return "0";
    const text = value.toFixed(decimals);
    return minus(Number(text) === 0 ? text.replace("-", "") : text);
  };
}

/** [3, 224, 224] → "3 × 224 × 224". */
export function shape(sizes) {
  return sizes.map(whole).join(" × ");
}

/** [3, 3] → "3×3"; [2, 2] with `short` → "2". */
export function pair(values, short = false) {
  if (!values) return NOTHING;
  return short && values[0] === values[1] ? String(values[0]) : values.join("×");
}

/** [[1, 1], [1, 1]] → "1"; sides that differ are written out: top, bottom, left, right. */
export function sides(padding) {
  if (!padding) return NOTHING;
  const all = padding.flat();
  return all.every((side) => side === all[0]) ? String(all[0]) : all.join(", ");
}

/** 0.123 → "12%". */
export function percent(share) {
  if (!Number.isFinite(share)) return NOTHING;
  if (share > 0 && share < 0.005) return "< 1%";
  return `${Math.round(share * 100)}%`;
}

/** A name that is too long loses its middle: folders say what it is, and the end says which. */
export function short(name, most = 28) {
  const letters = Array.from(name);
  if (letters.length <= most) return name;
  const end = Math.ceil((most - 1) * 0.66);
  return `${letters.slice(0, most - 1 - end).join("")}…${letters.slice(-end).join("")}`;
}

/** 0.98617 → "98.6%"; what is nearly certain or nearly nothing is not rounded to it. */
export function probability(share) {
  if (!Number.isFinite(share)) return NOTHING;
  if (share > 0.9995 && share < 1) return "> 99.9%";
  if (share > 0 && share < 0.0005) return "< 0.1%";
  return `${(share * 100).toFixed(1)}%`;
}

/** One of something, or several: plural(3, "map") → "3 maps". */
export function plural(count, word, words = `${word}s`) {
  return `${whole(count)} ${count === 1 ? word : words}`;
}
