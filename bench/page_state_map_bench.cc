// SPDX-License-Identifier: Apache-2.0
//
// The page-state map beside a plain bitmap and a btree_map of ranges, in one
// run. The peers are not thread-safe; the map pays for readers that never wait.
#include <malloc.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "benchmark/benchmark.h"
#include "cloister/bench/page_state_peers.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::bench {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageShift;
using memory::kPageSize;
using memory::PageState;
using memory::PageStateMap;
using memory::StateRange;

constexpr uint64_t kGiBPages = uint64_t{1} << 18;
constexpr uint64_t kTiBPages = uint64_t{1} << 28;
constexpr uint8_t kPrivate = 1;
constexpr uint8_t kShared = 2;

// Gives the map the peers' interface, in pages.
class Map {
 public:
  explicit Map(uint64_t) {}
  void Set(uint64_t first, uint64_t end, uint8_t state) {
    absl::Status status = map_.Set(Range(first, end), PageState{state});
    if (!status.ok()) std::abort();
  }
  uint8_t Get(uint64_t page) const {
    return static_cast<uint8_t>(map_.Get(GuestAddress(page << kPageShift)));
  }
  void Visit(uint64_t first, uint64_t end, PageVisitor visit) const {
    map_.ForEachRange(Range(first, end), [&](const StateRange& part) {
      visit(part.range.start().gfn().value(), part.range.last().gfn().value(),
            static_cast<uint8_t>(part.state));
      return true;
    });
  }
  const PageStateMap& map() const { return map_; }

 private:
  static GuestRange Range(uint64_t first, uint64_t end) {
    return *GuestRange::Create(GuestAddress(first << kPageShift),
                               (end - first) << kPageShift);
  }
  PageStateMap map_;
};
class Bitmap : public BitmapPeer {
 public:
  using BitmapPeer::BitmapPeer;
};
class Btree : public BtreePeer {
 public:
  explicit Btree(uint64_t) {}
};

std::vector<uint64_t> RandomPages(uint64_t below) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> pages(1 << 16);
  for (uint64_t& page : pages) page = random() % below;
  return pages;
}

// A VM of 1 TiB, all private, with `flips` shared pages spread over it.
template <typename Peer>
void Prepare(Peer& peer, int64_t flips) {
  peer.Set(0, kTiBPages, kPrivate);
  std::mt19937_64 random(2);
  for (int64_t i = 0; i < flips; ++i) {
    uint64_t page = random() % kTiBPages;
    peer.Set(page, page + 1, kShared);
  }
}

// One GiB at a time to shared and back; aligned, or three pages off.
template <typename Peer>
void BM_Set1GiB(benchmark::State& state) {
  Peer peer(kTiBPages);
  Prepare(peer, 0);
  uint64_t i = 0;
  for (auto _ : state) {
    uint64_t first = i / 2 % 1000 * kGiBPages + state.range(0);
    peer.Set(first, first + kGiBPages, i % 2 == 0 ? kShared : kPrivate);
    ++i;
  }
}

// Random single pages of 1 TiB, to shared and back to private.
template <typename Peer>
void BM_Flip4KiB(benchmark::State& state) {
  Peer peer(kTiBPages);
  Prepare(peer, state.range(0));
  std::vector<uint64_t> pages = RandomPages(kTiBPages);
  uint64_t i = 0;
  for (auto _ : state) {
    uint64_t page = pages[i / 2 % pages.size()];
    peer.Set(page, page + 1, i % 2 == 0 ? kShared : kPrivate);
    ++i;
  }
}

// The state of random pages, with this many shared ones among them.
template <typename Peer>
void BM_Lookup(benchmark::State& state) {
  static Peer* peer;
  if (state.thread_index() == 0) {
    peer = new Peer(kTiBPages);
    Prepare(*peer, state.range(0));
  }
  std::vector<uint64_t> pages = RandomPages(kTiBPages);
  uint64_t i = static_cast<uint64_t>(state.thread_index()) * 1000;
  for (auto _ : state) {
    benchmark::DoNotOptimize(peer->Get(pages[++i % pages.size()]));
  }
  if (state.thread_index() == 0) delete peer;
}

// All ranges of 1 GiB in which every so many pages one is shared.
template <typename Peer>
void BM_Iterate(benchmark::State& state) {
  Peer peer(kTiBPages);
  const auto stride = static_cast<uint64_t>(state.range(0));
  peer.Set(0, kTiBPages, kPrivate);
  for (uint64_t page = 0; page < kGiBPages; page += stride) {
    peer.Set(page, page + 1, kShared);
  }
  int64_t ranges = 0;
  for (auto _ : state) {
    peer.Visit(0, kGiBPages, [&](uint64_t first, uint64_t, uint8_t) {
      benchmark::DoNotOptimize(first);
      ++ranges;
    });
  }
  state.SetItemsProcessed(ranges);
}

// What a checkerboard of runs of this many pages over 1 GiB costs, as the
// allocator sees it. The bitmap is given that GiB alone.
template <typename Peer>
void BM_CheckerboardMemory(benchmark::State& state) {
  const auto run = static_cast<uint64_t>(state.range(0));
  double bits = 0;
  for (auto _ : state) {
    ::malloc_trim(0);
    struct mallinfo2 before = ::mallinfo2();
    Peer peer(kGiBPages);
    peer.Set(0, kGiBPages, kPrivate);
    for (uint64_t page = 0; page + run <= kGiBPages; page += 2 * run) {
      peer.Set(page, page + run, kShared);
    }
    struct mallinfo2 after = ::mallinfo2();
    bits = static_cast<double>(after.uordblks + after.hblkhd - before.uordblks -
                               before.hblkhd) *
           8 / kGiBPages;
  }
  state.counters["bits_per_page"] = bits;
}

// What the map itself says about one GiB, and about the checkerboard.
void BM_Accounting(benchmark::State& state) {
  double entries = 0, bits = 0;
  for (auto _ : state) {
    Map peer(0);
    peer.Set(0, kGiBPages, kPrivate);
    entries = static_cast<double>(peer.map().entry_count());
    for (uint64_t page = 0; page < kGiBPages; page += 2) {
      peer.Set(page, page + 1, kShared);
    }
    bits = static_cast<double>(peer.map().memory_bytes()) * 8 / kGiBPages;
  }
  state.counters["entries_for_1GiB"] = entries;
  state.counters["bits_per_page"] = bits;
}

#define CLOISTER_BENCH_ALL(name, ...)            \
  BENCHMARK_TEMPLATE(name, Map)->__VA_ARGS__;    \
  BENCHMARK_TEMPLATE(name, Bitmap)->__VA_ARGS__; \
  BENCHMARK_TEMPLATE(name, Btree)->__VA_ARGS__

CLOISTER_BENCH_ALL(BM_Set1GiB, Arg(0)->Arg(3));
CLOISTER_BENCH_ALL(BM_Flip4KiB, Arg(0)->Arg(100000)->Arg(1000000));
CLOISTER_BENCH_ALL(BM_Lookup, Arg(0)->Arg(1000)->Arg(1000000));
BENCHMARK_TEMPLATE(BM_Lookup, Map)->Arg(1000)->Threads(2);
CLOISTER_BENCH_ALL(BM_Iterate, Arg(2)->Arg(64)->Arg(4096));
CLOISTER_BENCH_ALL(BM_CheckerboardMemory, Arg(1)->Arg(64)->Iterations(1));
BENCHMARK(BM_Accounting)->Iterations(1);

// Prints as usual, and afterwards how the map does beside its peers, and which
// marks it meets.
class MarkReporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      // Of several repetitions the median counts.
      if (run.run_type == Run::RT_Aggregate && run.aggregate_name != "median") {
        continue;
      }
      Result& result = results_[run.run_name.str()];
      if (result.median) continue;
      result.median = run.run_type == Run::RT_Aggregate;
      result.nanoseconds = run.GetAdjustedCPUTime();
      for (const auto& [name, counter] : run.counters) {
        result.counters[name] = counter.value;
      }
    }
  }

  // Whether all marks that were measured are met.
  bool PrintSummary() {
    std::printf("\n%-44s %9s %9s %9s  map beside bitmap, btree\n", "median",
                "map", "bitmap", "btree");
    for (const auto& [name, result] : results_) PrintPeers(name, result);
    std::printf("\n");
    Mark("BM_Set1GiB<Map>/0", "", 1000, "ns to set 1 GiB");
    Mark("BM_Set1GiB<Map>/3", "", 1000, "ns to set 1 GiB, 3 pages off");
    Mark("BM_Accounting/iterations:1", "entries_for_1GiB", 1,
         "entries for 1 GiB");
    Mark("BM_Accounting/iterations:1", "bits_per_page", 4,
         "bits per page of a checkerboard, as counted");
    for (const char* run : {"1", "64"}) {
      Mark(absl::StrCat("BM_CheckerboardMemory<Map>/", run, "/iterations:1"),
           "bits_per_page", 4,
           absl::StrCat("bits per page, runs of ", run, ", as allocated"));
    }
    std::printf("marks: %s\n", met_ ? "all met" : "MISSED");
    return met_;
  }

 private:
  struct Result {
    double nanoseconds = 0;
    bool median = false;
    std::map<std::string, double> counters;
  };

  static double ValueOf(const Result& result) {
    auto bits = result.counters.find("bits_per_page");
    if (bits != result.counters.end()) return bits->second;
    auto items = result.counters.find("items_per_second");
    return items != result.counters.end() && items->second > 0
               ? 1e9 / items->second
               : result.nanoseconds;
  }
  void PrintPeers(const std::string& name, const Result& map) {
    std::vector<double> values = {ValueOf(map)};
    for (const char* peer : {"<Bitmap>", "<Btree>"}) {
      const auto found =
          results_.find(absl::StrReplaceAll(name, {{"<Map>", peer}}));
      if (found == results_.end() || found->first == name) return;
      values.push_back(ValueOf(found->second));
    }
    std::printf("%-44s %9.2f %9.2f %9.2f  %.2f, %.2f\n", name.c_str(),
                values[0], values[1], values[2], values[0] / values[1],
                values[0] / values[2]);
  }
  // `counter` empty: the time. What a filter left out is no mark.
  void Mark(const std::string& name, const std::string& counter, double limit,
            const std::string& what) {
    auto found = results_.find(name);
    if (found == results_.end()) return;
    const double value = counter.empty() ? found->second.nanoseconds
                                         : found->second.counters[counter];
    const bool ok = value <= limit;
    met_ &= ok;
    std::printf("mark: %.2f %s, at most %.0f: %s\n", value, what.c_str(), limit,
                ok ? "pass" : "FAIL");
  }

  std::map<std::string, Result> results_;
  bool met_ = true;
};

}  // namespace
}  // namespace cloister::bench

int main(int argc, char** argv) {
  // In turn and several times, as numbers of a shared machine should be taken;
  // what the command line says comes later and wins.
  std::vector<std::string> words = {
      argv[0], "--benchmark_enable_random_interleaving=true",
      "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true",
      "--benchmark_min_time=0.05"};
  words.insert(words.end(), argv + 1, argv + argc);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  cloister::bench::MarkReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return reporter.PrintSummary() ? 0 : 1;
}
