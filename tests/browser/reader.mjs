// A reader of the status page, told line by line what to do, who answers each line with "ok" or with what is
// wrong. The story is told in tests/browser.rs; this knows a browser and nothing of goanyway.
//
//   node reader.mjs CHROMIUM
//
//   open URL               opens a page; from then on nothing but its origin may be asked
//   see SELECTOR TEXT      waits until an element has this text in it
//   not SELECTOR TEXT      it does not have it
//   outage on|off          whether lost connections are to be expected
//   type SELECTOR          what a person would type who reads it there
//   look NAME              light, dark and narrow: no accessibility fault, nothing wider than the window; with
//                          SHOTS=FOLDER each is kept as a picture
//   end                    nothing was complained of on the console, and nobody else was asked

import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const PATIENCE = 20_000;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: process.argv[2],
  // As root there is no sandbox; no name leads anywhere.
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
page.setDefaultTimeout(PATIENCE);

let home = null, outage = false;
const complaints = [];
page.on("console", message => {
  const lost = outage && /net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED)/.test(message.text());
  if (["error", "warning"].includes(message.type()) && !lost) complaints.push(`console: ${message.text()}`);
});
page.on("pageerror", error => complaints.push(`script: ${error}`));
page.on("request", request => {
  const url = new URL(request.url());
  if (url.protocol !== "data:" && url.origin !== home) complaints.push(`asked ${url.origin}`);
});

const VIEWS = [
  { name: "light", scheme: "light", width: 1200 },
  { name: "dark", scheme: "dark", width: 1200 },
  { name: "narrow", scheme: "light", width: 360 },
  { name: "narrow-dark", scheme: "dark", width: 360 },
];

const look = async name => {
  const faults = [];
  for (const view of VIEWS) {
    await page.emulateMedia({ colorScheme: view.scheme, reducedMotion: "reduce" });
    await page.setViewportSize({ width: view.width, height: 900 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    if (wide > view.width) faults.push(`${view.name}: ${wide} px wide`);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    for (const { id, nodes } of violations) faults.push(`${view.name}: ${id} at ${nodes.map(node => node.target).join(", ")}`);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${name}-${view.name}.png`, fullPage: true });
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1200, height: 900 });
  return faults;
};

const has = ([selector, text]) => [...document.querySelectorAll(selector)].some(it => it.textContent.includes(text));
const commands = {
  open: async url => {
    home = new URL(url).origin;
    const response = await page.goto(url);
    return response.ok() ? [] : [`it says ${response.status()}`];
  },
  see: async (selector, ...text) => void await page.waitForFunction(has, [selector, text.join(" ")]),
  not: async (selector, ...text) => await page.evaluate(has, [selector, text.join(" ")]) ? ["it has it"] : [],
  outage: async is => void (outage = is === "on"),
  type: async (...selector) => [`> ${await page.textContent(selector.join(" "))}`],
  look,
  end: async () => complaints,
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(" ");
  let faults;
  try {
    faults = await commands[command](...words) ?? [];
  } catch (error) {
    faults = [String(error).split("\n")[0], `the page says: ${(await page.textContent("body").catch(String)).replace(/\s+/g, " ").slice(0, 2000)}`];
  }
  console.log(faults.length ? faults.join(" | ") : "ok");
}
await browser.close();
