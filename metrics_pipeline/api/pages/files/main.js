// Chooses the view that the URL names, and asks for a token if the API does.

import { areCopiesOld, get, Problem, storedDaysAre, token } from "./api.js";
import { fill, h } from "./dom.js";
import { fleet } from "./fleet.js";
import { day } from "./format.js";

const main = document.querySelector("#main");
const query = new URLSearchParams(location.search);
const isDays = query.has("days") || query.has("day");
const viewOf = async () => {
  if (query.has("agent")) return (await import("./agent.js")).agent;
  if (!isDays) return fleet;
  const { calendar, oneDay } = await import("./days.js");
  return query.has("day") ? oneDay : calendar;
};
document.querySelector(isDays ? "#to-days" : "#to-fleet").setAttribute("aria-current", "page");
// The way back to the fleet keeps the period.
document.querySelector("#to-fleet").search = new URLSearchParams(
  [...query].filter(([name]) => ["from", "to"].includes(name)),
);

function askForToken(isRefused) {
  const box = h("input", { type: "password", name: "token", required: true, autocomplete: "off" });
  const take = (event) => {
    event.preventDefault();
    token.set(box.value.trim());
    show();
  };
  fill(
    main,
    h("h1", {}, "Token"),
    h(
      "p",
      {},
      "This server shows its numbers to those who have one of its read tokens. The token is kept in this tab only.",
    ),
    isRefused && h("p", { class: "notice", role: "alert" }, "The server does not know this token."),
    h("form", { class: "period", submit: take }, h("label", {}, "Read token ", box), h("button", {}, "Open")),
  );
  box.focus();
}

function showProblem({ message }) {
  const notice = h(
    "p",
    { class: "notice", role: "alert" },
    `${message} `,
    h("a", { href: location.href }, "Try again"),
  );
  // What is shown already stays.
  if (document.documentElement.dataset.ready) main.prepend(notice);
  else fill(main, h("h1", {}, "No answer"), notice);
}

async function show() {
  main.setAttribute("aria-busy", "true");
  try {
    const [view, info] = await Promise.all([viewOf(), get("info")]);
    storedDaysAre(`${info.version} ${info.stored_version}`);
    document
      .querySelector("#pipeline")
      .replaceChildren(
        `Days of ${info.time_zone}. Newest aggregated: ${info.newest_stored_day ? day(info.newest_stored_day) : "none"}. `,
        token.get() ? h("button", { type: "button", click: forgetToken }, "Forget the token") : "",
      );
    await view(main, query, info);
    document.documentElement.dataset.ready = "all";
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
    if (await areCopiesOld()) await show();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) {
      const isRefused = token.get() !== null;
      token.forget();
      askForToken(isRefused);
    } else showProblem(error);
  } finally {
    main.setAttribute("aria-busy", "false");
  }
}

function forgetToken() {
  token.forget();
  location.reload();
}

show();
