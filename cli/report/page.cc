// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/page.cc
#include "report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "switchyard/error.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// A table longer than this is read by no one, and the page has to stay small.
constexpr size_t kMostTableRows = 200;

// ---- cells and tables

constexpr const char* kDash = "\xe2\x80\x93";

struct Cell {
  std::string html;
  const char* style = "";  // a class
};

Cell words(std::string_view text, size_t most = 60) {
  return {escaped(shortened(text, most)), "w"};
}

// What is shown, and the number itself for whoever reads the page by program.
Cell value(double number_of, const std::string& text) {
  return {fmt::format("<data value=\"{}\">{}</data>", number_of, text)};
}
Cell value(double number_of) {
  return value(number_of, number(number_of));
}
Cell value_or_dash(double number_of) {
  return number_of > 0 ? value(number_of) : Cell{kDash};
}
Cell ratio(double number_of) {
  if (!(number_of > 0)) return {kDash};
  return value(number_of, number_of < 100 ? fmt::format("{:.2f}", number_of) : number(number_of));
}
Cell count(int64_t number_of) {
  return {number_of > 0 ? fmt::format("{}", number_of) : kDash};
}

// Columns that are empty in every row are left out.
class HtmlTable {
 public:
  HtmlTable(std::string name, std::vector<std::string> head)
      : name_(std::move(name)), head_(std::move(head)) {}

  void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }

  std::string html() const {
    std::vector<size_t> columns;
    for (size_t c = 0; c < head_.size(); ++c)
      if (std::ranges::any_of(rows_, [c](const auto& row) { return !is_empty(row[c]); }))
        columns.push_back(c);
    std::string text = fmt::format(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table id=\"{0}\">"
        "<thead><tr>",
        name_);
    for (const size_t c : columns)
      text += fmt::format("<th{}>{}</th>", is_text(c) ? " class=\"w\"" : "", escaped(head_[c]));
    text += "</tr></thead><tbody>\n";
    for (size_t r = 0; r < std::min(rows_.size(), kMostTableRows); ++r) {
      text += "<tr>";
      for (const size_t c : columns)
        text += fmt::format("<td{}>{}</td>", styled(rows_[r][c]), rows_[r][c].html);
      text += "</tr>\n";
    }
    text += "</tbody></table></div>";
    if (rows_.size() > kMostTableRows)
      text += fmt::format("<p class=\"note\">{} more rows are in the file.</p>",
                          rows_.size() - kMostTableRows);
    return text;
  }

 private:
  static bool is_empty(const Cell& cell) { return cell.html.empty() || cell.html == kDash; }
  bool is_text(size_t column) const { return std::string_view(rows_.front()[column].style) == "w"; }
  static std::string styled(const Cell& cell) {
    return *cell.style ? fmt::format(" class=\"{}\"", cell.style) : "";
  }

  std::string name_;
  std::vector<std::string> head_;
  std::vector<std::vector<Cell>> rows_;
};

std::string base_name(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  return name.empty() ? "results" : name;
}

struct Part {
  std::string id, title, html;
};

std::string note(const std::string& text) {
  return fmt::format("<p class=\"note\">{}</p>\n", text);
}

// As many beside each other as fit.
std::string figures(const std::vector<Chart>& charts) {
  const bool wide = charts.front().svg.width() > 380;
  std::string html = fmt::format("<div class=\"charts{}\">\n", wide ? " wide" : "");
  for (const Chart& chart : charts)
    html += fmt::format("<figure>{}</figure>\n", chart.svg.in_page());
  return html + "</div>\n";
}

// ---- the first table

bool is_layer_run(const BenchRun& run) {
  return !run.tokens().empty() && !run.is_linear_attention();
}

// Outside what repeated runs of ours gave, or as good as equal.
const char* verdict(const Headline& h) {
  const double low = h.row->us_min > 0 ? h.row->us_min / h.row->us : 1;
  const double high = h.row->us_max > 0 ? h.row->us_max / h.row->us : 1;
  if (std::abs(h.of_peer() - 1) < 0.005) return "";  // it is shown as 1.00
  if (h.of_peer() * high < 1) return "good";
  return h.of_peer() * low > 1 ? "bad" : "";
}

// What a narrow screen shows first comes first.
std::vector<Cell> headline_cells(const Headline& h, bool many_devices) {
  const BenchRun& run = *h.run;
  const BenchRow& row = *h.row;
  const auto error = run.error_of(row);
  const Cell none = {kDash}, no_words = {kDash, "w"};
  const bool peer = h.best_peer != nullptr;
  return {words(run.name, 40),
          many_devices ? words(run.device, 32) : no_words,
          count(run.ranks > 1 ? run.ranks : 0),
          value(static_cast<double>(row.tokens), fmt::format("{}", row.tokens)),
          value(row.us),
          ratio(row.of_floor()),
          peer ? Cell{ratio(h.of_peer()).html, verdict(h)} : none,
          value_or_dash(row.floor_us),
          peer ? words(h.best_peer->name, 28) : no_words,
          peer ? value(h.peer.us) : none,
          peer ? ratio(h.peer.of_floor()) : none,
          error ? value(*error, fmt::format("{:.1e}", *error)) : none,
          words(row.strategy, 40),
          words(row.op == "layer" ? "run" : "given")};
}

std::string headline_table(const char* id, const std::vector<Headline>& rows, bool plain) {
  std::set<std::string> devices;
  for (const Headline& h : rows) devices.insert(h.run->device);
  HtmlTable table(
      id, {"model", "device", "ranks", "tokens", "us", "of floor", "of best peer", "floor us",
           "best peer", "peer us", "peer of its floor", "error", "strategy", "gate"});
  for (const Headline& h : rows)
    if (h.run->is_plain() == plain) table.add(headline_cells(h, devices.size() > 1));
  return table.empty() ? "" : table.html();
}

// Why a table of opponents is not used, if it is not.
std::string unused_peers(const Results& results, const std::vector<Headline>& rows) {
  std::set<std::string> devices;
  for (const Peer& peer : results.peers) {
    const bool used = std::ranges::any_of(
        rows, [&](const Headline& h) { return peer.find(*h.run, h.row->tokens) != nullptr; });
    if (!used) devices.insert(peer.device.empty() ? "an unknown device" : peer.device);
  }
  std::string html;
  for (const auto& device : devices)
    html += note(fmt::format(
        "Peers that were measured on {} stand beside no row: another device, model or number of "
        "tokens.",
        escaped(shortened(device, 60))));
  return html;
}

Part headline_part(const Results& results) {
  const auto rows = headlines(results);
  std::string text =
      "One row for each model and number of tokens, of the fastest strategy. The floor is the "
      "larger of bytes over measured bandwidth and flops over measured rate: 1.00 is the limit of "
      "the "
      "machine, which only data that stay in a cache pass.";
  if (!results.peers.empty())
    text +=
        " <em>Of best peer</em> is our time over floor divided by the best peer\xe2\x80\x99s, each "
        "with the floor of its own run; below 1 ours is faster. Colour says that the difference is "
        "larger than the spread of our runs.";
  std::string html = note(text);
  html += headline_table("headline", rows, true) + unused_peers(results, rows);
  const std::string skewed = headline_table("skewed", rows, false);
  if (!skewed.empty())
    html +=
        "<details><summary>Other routing: balanced, skewed</summary>\n" + skewed + "</details>\n";
  return {"layers", "Layers", std::move(html)};
}

// ---- ranks, linear attention

// Dispatch, experts and combine of this layer.
bool is_part_of_ranks(const BenchRun& run, const BenchRow& row, const BenchRow& layer) {
  return run.ranks > 1 && row.tokens == layer.tokens && row.strategy == layer.strategy &&
         !row.eager && !row.is_layer();
}

std::string rank_table(const Results& results) {
  HtmlTable table("rank-parts", {"model", "ranks", "tokens", "part", "us", "floor us", "of floor",
                                 "MB", "link GB/s", "strategy"});
  for (const BenchRun* run : newest_runs(results)) {
    if (run->ranks < 2) continue;
    for (const int64_t tokens : run->tokens()) {
      const BenchRow* layer = run->fastest_layer(tokens);
      for (const BenchRow& row : run->rows)
        if (is_part_of_ranks(*run, row, *layer))
          table.add({words(run->name, 40), count(run->ranks), count(tokens), words(row.op, 24),
                     value(row.us), value_or_dash(row.floor_us), ratio(row.of_floor()),
                     value_or_dash(row.bytes * 1e-6), value_or_dash(row.link_gbps),
                     words(row.strategy, 40)});
    }
  }
  return table.empty() ? "" : table.html();
}

std::string linear_attention_table(const Results& results) {
  HtmlTable table("linear", {"device", "operation", "sequences", "tokens", "us", "floor us",
                             "of floor", "GB/s"});
  for (const BenchRun& run : results.runs)
    for (const BenchRow& row : run.rows)
      if (row.batch > 0)
        table.add({words(run.device, 32), words(row.op, 32), count(row.batch), count(row.tokens),
                   value(row.us), value_or_dash(row.floor_us), ratio(row.of_floor()),
                   value_or_dash(row.us >= kLeastUs ? row.bytes / row.us * 1e-3 : 0)});
  return table.empty() ? "" : table.html();
}

// ---- machine and errors

std::string machine_table(const Results& results) {
  HtmlTable table("runs", {"run", "device", "driver", "ranks", "threads", "date", "commit",
                           "version", "routing", "TFLOP/s", "reads GB/s", "copies GB/s",
                           "SM clock MHz", "repeats", "file"});
  for (const BenchRun& run : results.runs)
    table.add({words(run.name, 40), words(run.device, 40), words(run.driver, 20), count(run.ranks),
               count(run.threads), words(run.date, 20), words(run.commit, 16),
               words(run.version, 16), words(run.routing, 16), value_or_dash(run.tflops),
               value_or_dash(run.read_gbps), value_or_dash(run.copy_gbps),
               value_or_dash(run.sm_clock_mhz), count(run.repeat),
               words(base_name(results.files[run.file].path), 60)});
  return table.empty() ? "" : table.html();
}

std::string problem_table(const Results& results) {
  HtmlTable table("problems", {"run", "tokens", "strategy", "what", "why"});
  std::set<std::string> said;
  for (const BenchRun& run : results.runs) {
    if (!run.error.empty())
      table.add(
          {words(run.name, 40), {kDash}, words(""), {"failed", "bad"}, words(run.error, 200)});
    for (const BenchCheck& check : run.checks)
      if (!check.problem.empty() && said.insert(run.name + check.strategy + check.problem).second)
        table.add({words(run.name, 40), count(check.tokens), words(check.strategy, 40),
                   check.failed ? Cell{"failed", "bad"} : Cell{"left out", "w"},
                   words(check.problem, 200)});
  }
  return table.empty() ? "" : table.html();
}

std::string worst_error(const Results& results) {
  double worst = -1;
  size_t checked = 0;
  for (const BenchRun& run : results.runs)
    for (const BenchCheck& check : run.checks)
      if (check.rel_error) worst = std::max(worst, *check.rel_error), ++checked;
  if (worst < 0) return note("These files hold no comparison with float64.");
  return note(
      fmt::format("{} results were compared with float64 before they were timed: the largest "
                  "relative L2 error is {:.1e}.",
                  checked, worst));
}

Part machine_part(const Results& results) {
  std::string html = worst_error(results);
  const std::string problems = problem_table(results);
  if (!problems.empty()) html += "<h3>Refused and failed</h3>\n" + problems;
  html += "<h3>Runs</h3>\n" + machine_table(results);
  for (const ResultsFile& file : results.files)
    if (!file.not_shown.empty())
      html += note(fmt::format(
          "{} holds more that is not shown here: {}.", escaped(shortened(base_name(file.path), 80)),
          escaped(shortened(fmt::format("{}", fmt::join(file.not_shown, ", ")), 200))));
  return {"machine", "Machine and errors", std::move(html)};
}

// ---- the files themselves

// As a data: address inside single quotes.
std::string data_address(const char* type, std::string_view bytes) {
  std::string address = fmt::format("data:{},", type);
  for (const char c : bytes) {
    const auto code = static_cast<unsigned char>(c);
    const bool plain = code > 0x20 && code < 0x7f &&
                       std::string_view("%#&'<>\"\\`").find(c) == std::string_view::npos;
    // Quotes are the most frequent character of JSON: written as they are, a third is saved.
    if (plain || c == '"')
      address += c;
    else
      address += fmt::format("%{:02X}", code);
  }
  return address;
}

// Rows of a run that a table or a picture shows, in their order.
std::set<const BenchRow*> shown_rows(const BenchRun& run) {
  std::set<const BenchRow*> shown;
  for (const int64_t tokens : run.tokens()) {
    const BenchRow* layer = run.fastest_layer(tokens);
    shown.insert(layer);
    for (const BenchRow& row : run.rows)
      if (is_part_of_ranks(run, row, *layer)) shown.insert(&row);
  }
  for (const BenchRow* layer : layers_shown_in_parts(run))
    for (const BenchRow* row : parts_of(run, *layer)) shown.insert(row);
  return shown;
}

bool is_of_peer(const nlohmann::json& row) {
  const auto peer = row.find("peer");
  return peer != row.end() && !is_ours(peer->get_ref<const std::string&>());
}

// The run with these rows and those of peers, and the largest error of each layer.
nlohmann::json digest(const BenchRun& run) {
  if (run.is_linear_attention()) return run.raw;
  nlohmann::json json = run.raw, errors = nlohmann::json::array();
  for (const char* list : {"rows", "checks", "refusals", "sm_clock_mhz_of_runs"}) json.erase(list);
  json["rows"] = nlohmann::json::array();
  std::set<size_t> indices;
  for (const BenchRow* row : shown_rows(run)) {
    indices.insert(row->index);
    const auto error = row->is_layer() && row->peer.empty() ? run.error_of(*row) : std::nullopt;
    if (error)
      errors.push_back(
          {{"tokens", row->tokens}, {"strategy", row->strategy}, {"rel_error", *error}});
  }
  const nlohmann::json& rows = run.raw["rows"];
  for (size_t i = 0; i < rows.size(); ++i)
    if (indices.contains(i) || is_of_peer(rows[i])) json["rows"].push_back(rows[i]);
  if (!errors.empty()) json["checks"] = errors;
  return json;
}

// What the page shows of a file, as a results file that can be reported again.
nlohmann::json digest(const Results& results, size_t file) {
  nlohmann::json json = nlohmann::json::object();
  for (const char* key : {"gpu", "machine", "driver", "date", "commit", "command"})
    if (const auto found = results.files[file].json.find(key);
        found != results.files[file].json.end())
      json[key] = *found;
  for (const BenchRun* run : newest_runs(results)) {
    if (run->file != file) continue;
    if (run->is_linear_attention())
      json["linear_attention"] = digest(*run);
    else
      json[run->ranks > 1 ? "ranks" : "bench"][run->name] = digest(*run);
  }
  return json;
}

std::string download(const std::string& name, const std::string& address, const std::string& what) {
  return fmt::format("<li><a download=\"{0}\" href='{1}'>{0}</a>: {2}</li>\n", escaped(name),
                     address, what);
}

// What fits: the whole file, or what is shown of it, or its name.
std::string data_item(const Results& results, size_t index, size_t room) {
  const ResultsFile& file = results.files[index];
  const bool table = file.json.is_null();
  const auto compact = [](const nlohmann::json& json) {
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  const std::string name = base_name(file.path);
  std::string whole =
      download(name,
               data_address(table ? "text/tab-separated-values" : "application/json",
                            table ? file.text : compact(file.json)),
               "the whole file.");
  if (whole.size() <= room) return whole;
  if (!table) {
    std::string part =
        download("shown-" + name, data_address("application/json", compact(digest(results, index))),
                 "the rows that this page shows; the whole file does not fit into it.");
    if (part.size() <= room) return part;
  }
  return fmt::format("<li>{}: does not fit into this page.</li>\n", escaped(shortened(name, 80)));
}

// The smallest first, so that a large one leaves the others their place.
Part data_part(const Results& results, size_t room) {
  std::vector<size_t> order(results.files.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return results.files[i].text.size(); });
  std::vector<std::string> items(order.size());
  for (const size_t i : order) {
    items[i] = data_item(results, i, room);
    room -= std::min(room, items[i].size());
  }
  return {"data", "Data", fmt::format("<ul>\n{}</ul>\n", fmt::join(items, ""))};
}

// ---- the page

constexpr std::string_view kStyle = R"(
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink)}
body{margin:0 auto;max-width:1180px;padding:16px;overflow-wrap:anywhere;
font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:24px;margin:8px 0 4px}
h2{font-size:19px;margin:36px 0 8px;padding-top:12px;border-top:1px solid var(--grid)}
h3{font-size:15px;margin:20px 0 6px}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:10px 0}
a{color:var(--s0)}
.note{color:var(--soft);max-width:80ch;margin:6px 0 10px}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;margin:10px 0;
border:1px solid var(--grid);border-radius:6px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th{color:var(--soft);font-weight:600}
tbody tr:last-child td{border-bottom:0}
tbody tr:hover td{background:color-mix(in srgb,var(--grid) 40%,var(--paper))}
td:first-child,th:first-child{position:sticky;left:0;background:var(--paper)}
.w{text-align:left}
.good{color:var(--s2);font-weight:600}
.bad{color:var(--s5);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(320px,100%),1fr));gap:16px}
.wide{grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr))}
figure{margin:0;min-width:0}
.chart{display:block;width:100%;height:auto}
summary{cursor:pointer;padding:8px 0}
:focus-visible{outline:2px solid var(--s0)}
@media(max-width:600px){th,td{padding:4px 6px}body{padding:12px}}
@media print{.scroll{overflow:visible;border:0}body{max-width:none}figure{break-inside:avoid}}
)";

std::string subtitle(const Results& results) {
  std::vector<std::string> devices;
  std::set<std::string> dates;
  for (const BenchRun& run : results.runs) {
    if (!run.device.empty() && std::ranges::count(devices, run.device) == 0)
      devices.push_back(run.device);
    if (!run.date.empty()) dates.insert(run.date.substr(0, 10));
  }
  std::string text = shortened(fmt::format("{}", fmt::join(devices, ", ")), 120);
  if (!dates.empty())
    text += fmt::format("{}{}{}", text.empty() ? "" : "; ", *dates.begin(),
                        dates.size() > 1 ? " to " + *dates.rbegin() : "");
  return note(escaped(text));
}

void add_figures(std::vector<Part>& parts, const char* id, const char* title,
                 const std::string& text, const std::vector<Chart>& charts,
                 const std::string& below = "") {
  if (charts.empty() && below.empty()) return;
  parts.push_back({id, title, note(text) + (charts.empty() ? "" : figures(charts)) + below});
}

std::vector<Part> parts_of_page(const Results& results) {
  std::vector<Part> parts;
  if (!headlines(results).empty()) parts.push_back(headline_part(results));
  add_figures(parts, "ratio", "Above the floor",
              "Time over floor by tokens, routing random. The band is the range of repeated runs; "
              "the thick line "
              "at 1 is the floor. Peers stand beside their own floors.",
              ratio_charts(results));
  add_figures(parts, "roofline", "Roofline",
              "Layers below the roofs that this machine reached: reads of memory and "
              "multiply-adds, measured in "
              "the same process. To the left memory is the limit, to the right the multiply-adds.",
              rooflines(results));
  add_figures(parts, "operations", "Operations",
              "Each operation alone, beside its floor, and the layer, in which they follow each "
              "other without "
              "gaps.",
              operation_charts(results));
  add_figures(parts, "ranks", "Ranks",
              "Parts of a layer over several ranks as shares of their sum, each of the slowest "
              "rank; the line is "
              "the layer itself, in which parts may overlap. The floor of dispatch and combine is "
              "the driver\xe2\x80\x99s copy "
              "of the bytes that leave a rank.",
              rank_charts(results), rank_table(results));
  add_figures(parts, "load", "Expert load",
              "Rows of each expert in one forward; an even gate gives each the mean.",
              load_charts(results));
  add_figures(parts, "trend", "Trend", "Runs that several files have, by date and commit.",
              trend_charts(results));
  if (const std::string table = linear_attention_table(results); !table.empty())
    parts.push_back(
        {"linear-attention", "Linear attention",
         note("Decode steps over paged states; the floor is bytes over the copy rate.") + table});
  parts.push_back(machine_part(results));
  return parts;
}

std::string section(const Part& part) {
  return fmt::format("<section><h2 id=\"{}\">{}</h2>\n{}</section>\n", part.id, part.title,
                     part.html);
}

}  // namespace

std::vector<Headline> headlines(const Results& results) {
  std::vector<Headline> rows;
  for (const BenchRun* run : newest_runs(results)) {
    if (!is_layer_run(*run)) continue;
    for (const int64_t tokens : run->tokens()) {
      Headline h{run, run->fastest_layer(tokens)};
      for (const Peer& peer : results.peers) {
        const Peer::Time* time = peer.find(*run, tokens);
        if (time && h.row->of_floor() > 0 && (!h.best_peer || time->of_floor() < h.peer.of_floor()))
          h.best_peer = &peer, h.peer = *time;
      }
      rows.push_back(h);
    }
  }
  return rows;
}

std::string report_page(const Results& results) {
  const auto parts = parts_of_page(results);
  // Nothing of it is fetched or run, whatever a results file has in its strings.
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>Switchyard report</title>\n"
      "<style>{}{}</style></head>\n<body><header><h1>Switchyard report</h1>\n{}<nav>",
      chart_style(), kStyle, subtitle(results));
  for (const Part& part : parts) html += fmt::format("<a href=\"#{}\">{}</a>", part.id, part.title);
  html += "<a href=\"#data\">Data</a></nav></header>\n<main>\n";
  for (const Part& part : parts) html += section(part);
  const std::string end = fmt::format("</main>\n<footer>{}</footer></body></html>\n",
                                      note("Written by switchyard " SWITCHYARD_VERSION "."));
  const size_t used = html.size() + end.size() + 200;  // what frames the list of files
  html += section(data_part(results, used < kMostPageBytes ? kMostPageBytes - used : 0)) + end;
  if (html.size() >= kMostPageBytes)
    throw Error(Errc::Unsupported,
                fmt::format("report: bytes={}, a page has at most {}. Give fewer files.",
                            html.size(), kMostPageBytes));
  return html;
}

std::vector<Chart> report_charts(const Results& results) {
  std::vector<Chart> all;
  for (const auto& charts : {ratio_charts(results), rooflines(results), operation_charts(results),
                             rank_charts(results), load_charts(results), trend_charts(results)})
    all.insert(all.end(), charts.begin(), charts.end());
  return all;
}

}  // namespace switchyard::cli
