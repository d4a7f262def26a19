// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CTL_TOP_H_
#define CLOISTER_CLI_CTL_TOP_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/client.h"
#include "cloister/api/json.h"

namespace cloister::cli {

// One look at a VM: GET /metrics and GET /memory/map, parsed.
struct TopSample {
  std::string id;
  std::string state;
  std::string backend;
  double seconds = 0;  // the server's uptime
  uint64_t conversions = 0;
  uint64_t converted_bytes = 0;
  uint64_t private_bytes = 0, shared_bytes = 0, aliased_bytes = 0;
  uint64_t double_backed_bytes = 0;
  struct Cell {
    uint64_t private_bytes = 0, shared_bytes = 0, aliased_bytes = 0;
  };
  std::vector<Cell> cells;
  struct Counter {
    std::string group;
    std::string name;
    uint64_t value = 0;
  };
  std::vector<Counter> exits;    // by vCPU and kind
  std::vector<Counter> devices;  // by device and counter
};

absl::StatusOr<TopSample> ParseTopSample(const std::string& instance,
                                         const std::string& metrics,
                                         const std::string& map);

// The screen, from one sample to the next: a bar of the address space, totals,
// conversions per second with their history, exits and device counters per
// second. Colours by terminal escapes.
class TopScreen {
 public:
  // `width` is 40 columns or more.
  explicit TopScreen(size_t width = 80) : width_(width) {}
  // The terminal has another width now.
  void set_width(size_t width) { width_ = width; }

  // Lines without escapes that move the cursor; each ends in a newline.
  std::string Render(const TopSample& sample);

 private:
  std::string Bar(const TopSample& sample) const;
  std::string Legend(const TopSample& sample) const;
  std::string Sparkline() const;

  size_t width_;
  bool has_last_ = false;
  TopSample last_;
  std::deque<double> history_;  // conversions per second, oldest first
};

// The first lines of `screen`, as many as leave room for `last` in `rows`; then
// `last`, a line without its newline.
std::string FitRows(absl::string_view screen, absl::string_view last,
                    size_t rows);

// Shows the screen until q, Ctrl-C or the end of the VM; `once`: one screen
// after one interval, then returns.
absl::Status RunTop(api::Client& client, std::chrono::milliseconds interval,
                    bool once);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CTL_TOP_H_
