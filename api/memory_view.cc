// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/memory_view.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace cloister::api {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using memory::StateRange;

// A guest may have its RAM in a few pieces; what lies between them is small.
constexpr size_t kMaxSegments = 64;
// Pictures have rows of that many; whole rows look better.
constexpr size_t kCellsInRow = 64;

constexpr std::pair<PageState, const char*> kStates[] = {
    {PageState::kPrivate, "private"},
    {PageState::kShared, "shared"},
    {PageState::kAliased, "aliased"}};

// Stretches of RAM: neighbouring ranges whatever their state.
std::vector<GuestRange> RamOf(const memory::PageStateMap& states) {
  std::vector<GuestRange> ram;
  auto whole =
      GuestRange::Create(GuestAddress(0), memory::PageStateMap::kEndAddress);
  if (!whole.ok()) return ram;
  states.ForEachRange(*whole, [&](const StateRange& part) {
    if (part.state == PageState::kNotRam) return ram.size() < kMaxSegments;
    const uint64_t start = part.range.start().value();
    if (!ram.empty() && ram.back().last().value() + 1 == start) {
      auto longer = GuestRange::Create(ram.back().start(),
                                       ram.back().size() + part.range.size());
      if (longer.ok()) ram.back() = *longer;
    } else {
      ram.push_back(part.range);
    }
    return true;
  });
  return ram;
}

MapSegment RamSegment(const memory::PageStateMap& states,
                      const GuestRange& range, size_t cells) {
  MapSegment segment{MapSegment::Kind::kRam, "RAM", range, 0, {}};
  const uint64_t pages = range.size() / memory::kPageSize;
  const uint64_t pages_per_cell = (pages + cells - 1) / cells;
  segment.cell_bytes = pages_per_cell * memory::kPageSize;
  segment.cells.resize((pages + pages_per_cell - 1) / pages_per_cell);
  states.ForEachRange(range, [&](const StateRange& part) {
    uint64_t offset = part.range.start().value() - range.start().value();
    uint64_t left = part.range.size();
    while (left > 0) {
      const uint64_t cell = offset / segment.cell_bytes;
      const uint64_t step =
          std::min(left, segment.cell_bytes - offset % segment.cell_bytes);
      segment.cells[cell][static_cast<size_t>(part.state)] += step;
      offset += step;
      left -= step;
    }
    return true;
  });
  return segment;
}

// `range` in pieces, none of which a window begins or ends in the middle of.
std::vector<GuestRange> CutAt(const GuestRange& range,
                              absl::Span<const AddressWindow> windows) {
  std::vector<uint64_t> cuts = {range.start().value(),
                                range.last().value() + 1};
  for (const AddressWindow& window : windows) {
    for (uint64_t cut :
         {window.range.start().value(), window.range.last().value() + 1}) {
      const bool inside =
          cut > range.start().value() && cut <= range.last().value();
      if (inside && cut % memory::kPageSize == 0) cuts.push_back(cut);
    }
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<GuestRange> pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    auto piece =
        GuestRange::Create(GuestAddress(cuts[i]), cuts[i + 1] - cuts[i]);
    if (piece.ok()) pieces.push_back(*piece);
  }
  return pieces;
}

// Sorts, and fills what lies between.
std::vector<MapSegment> WithHoles(std::vector<MapSegment> map) {
  std::stable_sort(map.begin(), map.end(),
                   [](const MapSegment& a, const MapSegment& b) {
                     return a.range.start() < b.range.start();
                   });
  std::vector<MapSegment> whole;
  uint64_t end = 0;
  for (MapSegment& segment : map) {
    const uint64_t start = segment.range.start().value();
    if (start > end) {
      auto hole = GuestRange::Create(GuestAddress(end), start - end);
      if (hole.ok()) {
        whole.push_back({MapSegment::Kind::kHole, "hole", *hole, 0, {}});
      }
    }
    end = std::max(end, segment.range.last().value() + 1);
    whole.push_back(std::move(segment));
  }
  return whole;
}

}  // namespace

Json AttributesJson(const memory::PageStateMap& states,
                    const GuestRange& range) {
  Json json = {{"ranges", Json::array()},
               {"generation", states.CurrentGeneration()}};
  std::optional<uint64_t> next;
  states.ForEachRange(range, [&](const StateRange& part) {
    if (json["ranges"].size() == kMaxAttributeRanges) {
      next = part.range.start().value();
      return false;
    }
    json["ranges"].push_back(
        {{"gpa", HexText(part.range.start().value())},
         {"len", HexText(part.range.size())},
         {"state", std::string(memory::PageStateName(part.state))}});
    return true;
  });
  if (next.has_value()) json["next"] = HexText(*next);
  return json;
}

Json ConversionsJson(const memory::ConversionStats& stats) {
  constexpr const char* kOrigins[] = {"explicit", "implicit", "host"};
  Json json;
  for (size_t i = 0; i < 3; ++i) {
    json["to_shared"][kOrigins[i]] = {{"requests", stats.to_shared[i].requests},
                                      {"bytes", stats.to_shared[i].bytes}};
    json["to_private"][kOrigins[i]] = {
        {"requests", stats.to_private[i].requests},
        {"bytes", stats.to_private[i].bytes}};
  }
  json["counters"] = {
      {"no_ops", stats.no_ops},
      {"merges", stats.merges},
      {"stale_faults", stats.stale_faults},
      {"needless_faults", stats.needless_faults},
      {"implicit_after_set_point", stats.implicit_after_set_point},
      {"implicit_denied", stats.implicit_denied},
      {"refused", stats.refused},
      {"failed", stats.failed},
      {"undone_chunks", stats.undone_chunks},
      {"delayed", stats.delayed},
      {"pending_private", stats.pending_private},
      {"queued", stats.queued}};
  Json& rollbacks = json["rollbacks_by_listener"] = Json::object();
  for (const auto& [listener, count] : stats.rollbacks_by_listener) {
    rollbacks[listener] = count;
  }
  json["bytes"] = {{"private", stats.private_bytes},
                   {"shared", stats.shared_bytes},
                   {"aliased", stats.aliased_total_bytes},
                   {"double_backed", stats.double_backed_bytes},
                   {"pending_private", stats.pending_private_bytes},
                   {"leftover", stats.leftover_bytes},
                   {"reconciled", stats.reconciled_bytes}};
  Json& latency = json["latency_ns"] = Json::array();
  for (size_t i = 0; i < stats.latency.size(); ++i) {
    if (stats.latency[i] == 0) continue;
    latency.push_back(
        {{"from", i == 0 ? 0 : uint64_t{1} << i}, {"count", stats.latency[i]}});
  }
  return json;
}

std::vector<MapSegment> BuildMap(const memory::PageStateMap& states,
                                 absl::Span<const AddressWindow> windows,
                                 size_t cells) {
  windows = windows.subspan(0, kMaxSegments);
  std::vector<GuestRange> parts;
  for (const GuestRange& range : RamOf(states)) {
    for (const GuestRange& part : CutAt(range, windows)) parts.push_back(part);
  }
  size_t each = std::max<size_t>(cells / std::max<size_t>(parts.size(), 1), 1);
  if (each > kCellsInRow) each -= each % kCellsInRow;
  std::vector<MapSegment> map;
  std::vector<bool> is_ram(windows.size());
  for (const GuestRange& part : parts) {
    map.push_back(RamSegment(states, part, each));
    for (size_t i = 0; i < windows.size(); ++i) {
      if (!windows[i].range.Contains(part)) continue;
      map.back().name = windows[i].name;
      is_ram[i] = true;
    }
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    if (is_ram[i]) continue;
    map.push_back(
        {MapSegment::Kind::kWindow, windows[i].name, windows[i].range, 0, {}});
  }
  return WithHoles(std::move(map));
}

Json MapJson(absl::Span<const MapSegment> map) {
  Json segments = Json::array();
  std::array<uint64_t, 4> totals = {};
  uint64_t windows = 0, holes = 0;
  for (const MapSegment& segment : map) {
    const bool ram = segment.kind == MapSegment::Kind::kRam;
    Json json = {{"kind", ram                                       ? "ram"
                          : segment.kind == MapSegment::Kind::kHole ? "hole"
                                                                    : "window"},
                 {"name", segment.name},
                 {"gpa", HexText(segment.range.start().value())},
                 {"len", HexText(segment.range.size())}};
    if (segment.kind == MapSegment::Kind::kHole) holes += segment.range.size();
    if (segment.kind == MapSegment::Kind::kWindow) {
      windows += segment.range.size();
    }
    if (ram) json["cell_len"] = HexText(segment.cell_bytes);
    for (const auto& cell : segment.cells) {
      Json entry = Json::array();
      for (const auto& [state, name] : kStates) {
        entry.push_back(cell[static_cast<size_t>(state)]);
        totals[static_cast<size_t>(state)] += cell[static_cast<size_t>(state)];
      }
      json["cells"].push_back(std::move(entry));
    }
    segments.push_back(std::move(json));
  }
  Json bytes = {{"windows", windows}, {"holes", holes}};
  for (const auto& [state, name] : kStates) {
    bytes[name] = totals[static_cast<size_t>(state)];
  }
  return {{"segments", std::move(segments)},
          {"cell_states", {"private", "shared", "aliased"}},
          {"bytes", std::move(bytes)}};
}

}  // namespace cloister::api
