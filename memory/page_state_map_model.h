// SPDX-License-Identifier: Apache-2.0
//
// A naive model of the page-state map, and what compares the two (test only).
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_MODEL_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_MODEL_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// Set cells [first, end) to `state`.
struct ModelOp {
  size_t first;
  size_t end;
  PageState state;
};

// Cuts the 2^40 pages at given page numbers into cells and remembers one state
// per cell in a vector: too simple to be wrong. Every operation of a test then
// starts and ends at a cut.
class PageStateModel {
 public:
  // `cuts` are page numbers below 2^40; 0 and 2^40 are added.
  explicit PageStateModel(std::vector<uint64_t> cuts) : cuts_(std::move(cuts)) {
    cuts_.push_back(0);
    cuts_.push_back(PageStateMap::kEndAddress >> kPageShift);
    std::sort(cuts_.begin(), cuts_.end());
    cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
    Clear();
  }

  size_t cells() const { return states_.size(); }
  void Clear() { states_.assign(cuts_.size() - 1, PageState::kNotRam); }

  GuestRange Range(size_t first, size_t end) const {
    return *GuestRange::Create(GuestAddress(cuts_[first] << kPageShift),
                               (cuts_[end] - cuts_[first]) << kPageShift);
  }
  // True if a cell changed.
  bool Apply(const ModelOp& op) {
    bool changed = false;
    for (size_t i = op.first; i < op.end; ++i) {
      changed |= states_[i] != op.state;
      states_[i] = op.state;
    }
    return changed;
  }
  // The maximal ranges of cells [first, end).
  std::vector<StateRange> Ranges(size_t first, size_t end) const {
    std::vector<StateRange> ranges;
    for (size_t i = first; i < end;) {
      size_t next = i + 1;
      while (next < end && states_[next] == states_[i]) ++next;
      ranges.push_back({Range(i, next), states_[i]});
      i = next;
    }
    return ranges;
  }

  // What is wrong with a map's answers about cells [first, end); "" if nothing.
  template <typename Map>
  std::string CompareRange(const Map& map, size_t first, size_t end) const {
    std::vector<StateRange> want = Ranges(first, end);
    std::vector<StateRange> got;
    map.ForEachRange(Range(first, end), [&](const StateRange& range) {
      got.push_back(range);
      return got.size() <= want.size();
    });
    if (got != want) {
      return absl::StrCat("ranges of ", Range(first, end).ToString(), ": got ",
                          ToString(got), ", want ", ToString(want));
    }
    for (PageState state : kStates) {
      bool wholly = want.size() == 1 && want[0].state == state;
      if (map.IsWholly(Range(first, end), state) != wholly) {
        return absl::StrCat(Range(first, end).ToString(), " is ",
                            wholly ? "" : "not ", "wholly ",
                            PageStateName(state), ", the map says otherwise");
      }
    }
    return "";
  }

  // As CompareRange, for one page.
  template <typename Map>
  std::string ComparePage(const Map& map, size_t cell, bool last) const {
    uint64_t page = last ? cuts_[cell + 1] - 1 : cuts_[cell];
    PageState got = map.Get(GuestAddress(page << kPageShift));
    if (got == states_[cell]) return "";
    return absl::StrCat("page 0x", absl::Hex(page), ": got ",
                        PageStateName(got), ", want ",
                        PageStateName(states_[cell]));
  }

  // Everything, totals and canonical form included.
  template <typename Map>
  std::string Compare(const Map& map) const {
    std::string wrong = CompareRange(map, 0, cells());
    for (size_t i = 0; i < cells() && wrong.empty(); ++i) {
      wrong = ComparePage(map, i, false);
      if (wrong.empty()) wrong = ComparePage(map, i, true);
    }
    if (!wrong.empty()) return wrong;
    std::array<uint64_t, 4> bytes = {};
    size_t ranges = 0;
    for (const StateRange& range : Ranges(0, cells())) {
      bytes[static_cast<size_t>(range.state)] += range.range.size();
      ranges += range.state != PageState::kNotRam;
    }
    for (PageState state : kStates) {
      if (map.bytes(state) != bytes[static_cast<size_t>(state)]) {
        return absl::StrCat(PageStateName(state), " bytes: got ",
                            map.bytes(state), ", want ",
                            bytes[static_cast<size_t>(state)]);
      }
    }
    // A bitmap stands for more ranges than it cuts off its neighbours.
    if (map.entry_count() > ranges) {
      return absl::StrCat(map.entry_count(), " entries for ", ranges,
                          " ranges");
    }
    return "";
  }

  static constexpr PageState kStates[] = {
      PageState::kNotRam, PageState::kPrivate, PageState::kShared,
      PageState::kAliased};

 private:
  static std::string ToString(const std::vector<StateRange>& ranges) {
    std::string text;
    for (const StateRange& range : ranges) {
      absl::StrAppend(&text, range.range.ToString(), "=",
                      PageStateName(range.state), " ");
    }
    return text;
  }

  std::vector<uint64_t> cuts_;
  std::vector<PageState> states_;  // Of [cuts_[i], cuts_[i + 1]).
};

// The shortest sequence it finds for which `fails` still holds: drops ever
// smaller pieces until no single operation can go (delta debugging).
inline std::vector<ModelOp> Shrink(
    std::vector<ModelOp> ops,
    absl::FunctionRef<bool(const std::vector<ModelOp>&)> fails) {
  for (size_t piece = std::max<size_t>(ops.size() / 2, 1);; piece /= 2) {
    for (size_t at = 0; at < ops.size();) {
      std::vector<ModelOp> fewer(ops.begin(),
                                 ops.begin() + static_cast<ptrdiff_t>(at));
      size_t after = std::min(at + piece, ops.size());
      fewer.insert(fewer.end(), ops.begin() + static_cast<ptrdiff_t>(after),
                   ops.end());
      if (fails(fewer)) {
        ops = std::move(fewer);
      } else {
        at = after;
      }
    }
    if (piece <= 1) return ops;
  }
}

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_MODEL_H_
