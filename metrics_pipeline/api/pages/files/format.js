// Numbers and days in words. Decimals come as text and are rounded from their digits, never from a binary float.

export const NONE = "–";

const DAY_MS = 86_400_000;
const number = (options) => {
  const format = new Intl.NumberFormat("en-US", options);
  return (value) => (value === null || value === undefined ? NONE : format.format(value).replace("-", "−"));
};
/** Of a change. What is zero as written has both signs. */
const change = (options) => {
  const write = number({ ...options, signDisplay: "exceptZero" });
  return (value) => write(value).replace(/^(?=[$0])/, "±");
};
const places = (digits) => ({ minimumFractionDigits: digits, maximumFractionDigits: digits });

export const whole = number({ maximumFractionDigits: 0 });
/** The number and what is counted: 1 day, 1,234 days. */
export const counted = (value, one, many = `${one}s`) => `${whole(value)} ${value === 1 ? one : many}`;
export const wholeChange = change({ maximumFractionDigits: 0 });
export const short = number({ notation: "compact", maximumFractionDigits: 1 });
export const percent = number({ style: "percent", ...places(2) });
export const percentAxis = number({ style: "percent", maximumFractionDigits: 1 });
const cents = number({ style: "currency", currency: "USD", ...places(2) });
/** A cost that is not zero is never written as zero. */
export const money = (value) => (value > 0 && value < 0.005 ? "< $0.01" : cents(value));
export const moneyAxis = number({ style: "currency", currency: "USD", notation: "compact", maximumFractionDigits: 2 });
export const unitMoney = number({ style: "currency", currency: "USD", ...places(4) });
export const unitMoneyChange = change({ style: "currency", currency: "USD", ...places(4) });
export const moneyChange = change({ style: "currency", currency: "USD", ...places(2) });
const points = change({ style: "percent", ...places(2) });
/** The difference of two rates, in percentage points. */
export const pointsChange = (value) => points(value).replace("%", " pp");

/** The name of a state, a rule or a metric. */
export const inWords = (name) => name.replaceAll("_", " ");

const EXACT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 20 });
/** Every digit that the API gave. */
export function exact(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string" && /^-?\d+\.\d+$/.test(value)) return value;
  return typeof value === "number" ? EXACT.format(value) : String(value);
}

const dayFormat = new Intl.DateTimeFormat("en-GB", {
  timeZone: "UTC",
  day: "numeric",
  month: "short",
  year: "numeric",
});
const shortDay = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short" });
const weekday = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", weekday: "short" });
const monthFormat = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", month: "long" });

export const day = (iso) => dayFormat.format(new Date(iso));
export const dayWithWeekday = (iso) => `${weekday.format(new Date(iso))} ${day(iso)}`;
export const dayOfMonth = (iso) => shortDay.format(new Date(iso));
export const month = (iso) => monthFormat.format(new Date(iso));
/** An instant, in UTC as the API gives it. */
export const instant = (iso) => (iso ? `${new Date(iso).toISOString().slice(0, 16).replace("T", " ")} UTC` : NONE);

/** The text if it is a day of the calendar, else null. */
export const dayOrNull = (text) =>
  /^\d{4}-\d{2}-\d{2}$/.test(text ?? "") && !Number.isNaN(Date.parse(text)) ? text : null;

export const addDays = (iso, days) => new Date(Date.parse(iso) + days * DAY_MS).toISOString().slice(0, 10);
export const countDays = (first, last) => Math.round((Date.parse(last) - Date.parse(first)) / DAY_MS) + 1;
export const mondayOf = (iso) => addDays(iso, -((new Date(iso).getUTCDay() + 6) % 7));
export const daysBetween = (first, last) =>
  Array.from({ length: Math.max(0, countDays(first, last)) }, (_, index) => addDays(first, index));

/** The sum of decimals with at most nine places, digit for digit. */
export function sum(decimals) {
  const nano = decimals.reduce((total, text) => {
    const [integer, fraction = ""] = String(text).split(".");
    return total + BigInt(integer + fraction.padEnd(9, "0"));
  }, 0n);
  const digits = (nano < 0n ? -nano : nano).toString().padStart(10, "0");
  return `${nano < 0n ? "-" : ""}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}
