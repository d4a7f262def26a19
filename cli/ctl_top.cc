// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/ctl_top.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {
namespace {

using api::Json;

constexpr char kReset[] = "\x1b[0m";
constexpr char kBold[] = "\x1b[1m";
constexpr char kDim[] = "\x1b[2m";
// Private, shared, aliased: as in the picture of the memory map.
constexpr char kPrivate[] = "\x1b[38;5;33m";
constexpr char kShared[] = "\x1b[38;5;208m";
constexpr char kAliased[] = "\x1b[38;5;134m";

constexpr size_t kBarCells = 256;
constexpr size_t kMaxRows = 40;

std::string Bytes(double value) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

// "12.3k": at most six columns.
std::string Rate(double value) {
  if (value >= 1e6) return absl::StrFormat("%.1fM", value / 1e6);
  if (value >= 1e4) return absl::StrFormat("%.1fk", value / 1e3);
  if (value >= 10 || value == 0) return absl::StrFormat("%.0f", value);
  return absl::StrFormat("%.1f", value);
}

// What a terminal may show of a name that came over a socket.
std::string Clean(absl::string_view text, size_t width) {
  std::string clean;
  for (char c : text.substr(0, width)) {
    clean += c >= ' ' && c < 127 ? c : '?';
  }
  return clean;
}

uint64_t Number(const Json& json, const char* name) {
  auto found = json.find(name);
  return found != json.end() && found->is_number_unsigned()
             ? found->get<uint64_t>()
             : 0;
}

void ReadMemory(const Json& memory, TopSample* sample) {
  for (const char* way : {"to_shared", "to_private"}) {
    if (!memory.contains(way)) continue;
    for (const Json& flow : memory[way]) {
      sample->conversions += Number(flow, "requests");
      sample->converted_bytes += Number(flow, "bytes");
    }
  }
  if (memory.contains("bytes")) {
    sample->double_backed_bytes = Number(memory["bytes"], "double_backed");
  }
}

void ReadMap(const Json& map, TopSample* sample) {
  if (map.contains("bytes")) {
    sample->private_bytes = Number(map["bytes"], "private");
    sample->shared_bytes = Number(map["bytes"], "shared");
    sample->aliased_bytes = Number(map["bytes"], "aliased");
  }
  if (!map.contains("segments")) return;
  for (const Json& segment : map["segments"]) {
    if (!segment.contains("cells")) continue;
    for (const Json& cell : segment["cells"]) {
      if (!cell.is_array() || cell.size() != 3) continue;
      uint64_t bytes[3] = {};
      for (size_t i = 0; i < 3; ++i) {
        if (cell[i].is_number_unsigned()) bytes[i] = cell[i].get<uint64_t>();
      }
      sample->cells.push_back({bytes[0], bytes[1], bytes[2]});
    }
  }
}

void ReadCounters(const std::string& group, const Json& counters,
                  std::vector<TopSample::Counter>* out) {
  if (!counters.is_object()) return;
  for (const auto& [name, value] : counters.items()) {
    if (!value.is_number_unsigned()) continue;
    out->push_back({group, name, value.get<uint64_t>()});
  }
}

// The changes per second of counters that changed, by group and the largest
// first.
std::string RateTable(const char* title,
                      const std::vector<TopSample::Counter>& now,
                      const std::vector<TopSample::Counter>& before,
                      double seconds, size_t width) {
  // A row: "  block_rootfs     read_bytes  12.5k ..."
  constexpr size_t kNameColumns = 14, kRateColumns = 18;
  const size_t columns =
      std::clamp<size_t>((width - kNameColumns - 2) / kRateColumns, 1, 6);
  std::map<std::pair<std::string, std::string>, uint64_t> last;
  for (const auto& counter : before) {
    last[{counter.group, counter.name}] = counter.value;
  }
  std::map<std::string, std::vector<std::pair<double, std::string>>> rates;
  for (const auto& counter : now) {
    const uint64_t old = last[{counter.group, counter.name}];
    if (counter.value <= old) continue;
    rates[counter.group].emplace_back(
        static_cast<double>(counter.value - old) / seconds, counter.name);
  }
  std::string text = absl::StrCat(kBold, title, kReset, "\n");
  size_t rows = 0;
  for (auto& [group, entries] : rates) {
    if (++rows > kMaxRows) break;
    std::sort(entries.rbegin(), entries.rend());
    absl::StrAppendFormat(&text, "  %-14s", Clean(group, kNameColumns));
    for (size_t i = 0; i < entries.size() && i < columns; ++i) {
      absl::StrAppendFormat(&text, " %-11s%6s", Clean(entries[i].second, 11),
                            Rate(entries[i].first));
    }
    text += "\n";
  }
  if (rates.empty())
    absl::StrAppend(&text, "  ", kDim, "nothing", kReset, "\n");
  return text;
}

struct TerminalSize {
  size_t columns = 80, rows = 24;
};

// As it is now: it may change at any time. What says nothing has the usual
// size.
TerminalSize SizeOfTerminal() {
  winsize size = {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 ||
      size.ws_row == 0) {
    return {};
  }
  return {std::clamp<size_t>(size.ws_col, 40, 200), size.ws_row};
}

// Keys without Enter and without echo, and signals as a descriptor, while it
// lives.
class Keys {
 public:
  Keys() {
    sigset_t set;
    ::sigemptyset(&set);
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, signal);
    ::sigprocmask(SIG_BLOCK, &set, &before_mask_);
    signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC));
    tty_ = ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (!tty_) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    // A terminal may ask for more than one key, or for a pause.
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  ~Keys() {
    if (tty_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    ::sigprocmask(SIG_SETMASK, &before_mask_, nullptr);
  }

  // Waits for `limit`; true at once if the user wants to leave.
  bool WaitForQuit(std::chrono::milliseconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - std::chrono::steady_clock::now());
      if (left.count() <= 0) return false;
      pollfd fds[2] = {{signals_.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
      const int ready =
          ::poll(fds, tty_ ? 2 : 1, static_cast<int>(left.count()));
      if (ready <= 0) continue;
      if (fds[0].revents != 0) {
        signalfd_siginfo info;
        return ::read(signals_.get(), &info, sizeof(info)) > 0;
      }
      char key = 0;
      if (::read(STDIN_FILENO, &key, 1) != 1 || key == 'q') return true;
    }
  }

 private:
  termios before_ = {};
  sigset_t before_mask_;
  base::UniqueFd signals_;
  bool tty_ = false;
};

// Draws over what was there, line by line: nothing flickers.
void Draw(const std::string& screen) {
  std::string text = "\x1b[H";
  for (char c : screen) {
    if (c == '\n') text += "\x1b[K";
    text += c;
  }
  text += "\x1b[K\x1b[J";
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

absl::StatusOr<TopSample> Look(api::Client& client) {
  ASSIGN_OR_RETURN(std::string instance, client.Invoke("describeInstance"));
  ASSIGN_OR_RETURN(std::string metrics, client.Invoke("getMetrics"));
  absl::StatusOr<std::string> map =
      client.Invoke("getMemoryMap", {{"cells", kBarCells}}, nullptr);
  // Refused before the start.
  if (!map.ok() && !absl::IsInvalidArgument(map.status())) return map.status();
  return ParseTopSample(instance, metrics, map.value_or("{}"));
}

}  // namespace

absl::StatusOr<TopSample> ParseTopSample(const std::string& instance,
                                         const std::string& metrics,
                                         const std::string& map) {
  ASSIGN_OR_RETURN(Json about, api::ParseJson(instance));
  ASSIGN_OR_RETURN(Json counts, api::ParseJson(metrics));
  ASSIGN_OR_RETURN(Json memory_map, api::ParseJson(map));
  if (!about.is_object() || !counts.is_object() || !memory_map.is_object()) {
    return absl::InvalidArgumentError("the server's answer is no object");
  }
  TopSample sample;
  auto text = [](const Json& json, const char* name) {
    auto found = json.find(name);
    return found != json.end() && found->is_string()
               ? Clean(found->get<std::string>(), 64)
               : std::string();
  };
  sample.id = text(about, "id");
  sample.state = text(about, "state");
  sample.backend = text(counts, "backend");
  sample.seconds = static_cast<double>(Number(counts, "uptime_us")) * 1e-6;
  if (counts.contains("memory")) ReadMemory(counts["memory"], &sample);
  ReadMap(memory_map, &sample);
  if (counts.contains("vcpus")) {
    size_t index = 0;
    for (const Json& vcpu : counts["vcpus"]) {
      ReadCounters(absl::StrCat("vcpu", index++), vcpu, &sample.exits);
    }
  }
  if (counts.contains("devices")) {
    for (const auto& [name, device] : counts["devices"].items()) {
      ReadCounters(name, device, &sample.devices);
    }
  }
  return sample;
}

// One character per part of RAM, in the colour of the state that most of it is
// in; a lighter block where it is mixed.
std::string TopScreen::Bar(const TopSample& sample) const {
  std::string bar;
  const size_t columns = width_ - 4;
  const size_t count = sample.cells.size();
  const char* colour = "";
  for (size_t i = 0; i < columns && count > 0; ++i) {
    const size_t first = i * count / columns;
    const size_t end = std::max((i + 1) * count / columns, first + 1);
    TopSample::Cell sum;
    for (size_t j = first; j < end && j < count; ++j) {
      sum.private_bytes += sample.cells[j].private_bytes;
      sum.shared_bytes += sample.cells[j].shared_bytes;
      sum.aliased_bytes += sample.cells[j].aliased_bytes;
    }
    const uint64_t most =
        std::max({sum.private_bytes, sum.shared_bytes, sum.aliased_bytes});
    const uint64_t all =
        sum.private_bytes + sum.shared_bytes + sum.aliased_bytes;
    const char* wanted = most == sum.private_bytes  ? kPrivate
                         : most == sum.shared_bytes ? kShared
                                                    : kAliased;
    if (wanted != colour) bar += colour = wanted;
    bar += most == all ? "█" : "▓";
  }
  return bar + kReset;
}

// What the colours mean, with sizes; "twice" is memory that both sides hold.
std::string TopScreen::Legend(const TopSample& sample) const {
  const auto entry = [](const char* colour, const char* name, uint64_t bytes) {
    return absl::StrFormat("  %s█%s %s %s", colour, kReset, name,
                           Bytes(static_cast<double>(bytes)));
  };
  // At most 22 columns each, and 18.
  const bool narrow = width_ < 84;
  return absl::StrCat(
      entry(kPrivate, "private", sample.private_bytes),
      entry(kShared, "shared", sample.shared_bytes), narrow ? "\n" : "",
      entry(kAliased, "aliased", sample.aliased_bytes), "  twice ",
      Bytes(static_cast<double>(sample.double_backed_bytes)), "\n");
}

std::string TopScreen::Sparkline() const {
  constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  double most = 1;
  for (double value : history_) most = std::max(most, value);
  std::string line;
  for (double value : history_) {
    const size_t step = static_cast<size_t>(value / most * 7.999);
    line += value == 0 ? " " : kBlocks[step];
  }
  return line;
}

std::string TopScreen::Render(const TopSample& sample) {
  const double seconds = has_last_ ? sample.seconds - last_.seconds : 0;
  double rate = 0, byte_rate = 0;
  if (seconds > 0 && sample.conversions >= last_.conversions) {
    rate =
        static_cast<double>(sample.conversions - last_.conversions) / seconds;
    byte_rate =
        static_cast<double>(sample.converted_bytes - last_.converted_bytes) /
        seconds;
    history_.push_back(rate);
  }
  while (history_.size() > width_ - 34) history_.pop_front();
  std::string text =
      absl::StrFormat("%s%s%s  %s  %s  up %.0f s\n\n", kBold, sample.id, kReset,
                      sample.state, sample.backend, sample.seconds);
  absl::StrAppend(&text, "  ", Bar(sample), "\n");
  absl::StrAppend(&text, Legend(sample), "\n");
  absl::StrAppendFormat(&text, "%sconversions/s%s %6s %9s/s %s%s%s\n\n", kBold,
                        kReset, Rate(rate), Bytes(byte_rate), kShared,
                        Sparkline(), kReset);
  const double divisor = seconds > 0 ? seconds : 1;
  text += RateTable("exits/s", sample.exits,
                    has_last_ ? last_.exits : sample.exits, divisor, width_);
  text += "\n";
  text +=
      RateTable("devices/s", sample.devices,
                has_last_ ? last_.devices : sample.devices, divisor, width_);
  last_ = sample;
  has_last_ = true;
  return text;
}

std::string FitRows(absl::string_view screen, absl::string_view last,
                    size_t rows) {
  std::string text;
  for (size_t row = 1; row < rows && !screen.empty(); ++row) {
    const size_t line = std::min(screen.find('\n'), screen.size() - 1) + 1;
    absl::StrAppend(&text, screen.substr(0, line));
    screen.remove_prefix(line);
  }
  return absl::StrCat(text, last);
}

absl::Status RunTop(api::Client& client, std::chrono::milliseconds interval,
                    bool once) {
  if (once) {
    TopScreen screen;
    ASSIGN_OR_RETURN(TopSample first, Look(client));
    screen.Render(first);
    Keys keys;
    if (keys.WaitForQuit(interval)) return absl::OkStatus();
    ASSIGN_OR_RETURN(TopSample second, Look(client));
    std::fputs(screen.Render(second).c_str(), stdout);
    return absl::OkStatus();
  }
  Keys keys;
  TopScreen screen;
  std::fputs("\x1b[?1049h\x1b[?25l", stdout);
  absl::Status status;
  do {
    absl::StatusOr<TopSample> sample = Look(client);
    if (!sample.ok()) {
      status = sample.status();
      break;
    }
    const TerminalSize size = SizeOfTerminal();
    screen.set_width(size.columns);
    Draw(FitRows(screen.Render(*sample), "  q leaves", size.rows));
  } while (!keys.WaitForQuit(interval));
  std::fputs("\x1b[?25h\x1b[?1049l", stdout);
  std::fflush(stdout);
  return status;
}

}  // namespace cloister::cli
