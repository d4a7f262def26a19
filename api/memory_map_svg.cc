// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/memory_map_svg.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::api {
namespace {

using Kind = MapSegment::Kind;

constexpr int kWidth = 1200;
constexpr int kMargin = 32;
constexpr int kInner = kWidth - 2 * kMargin;
constexpr int kColumns = 64;
constexpr double kCell = static_cast<double>(kInner) / kColumns;
constexpr int kRowHeight = 16;
constexpr size_t kTableRows = 24;

constexpr char kWindowColour[] = "#4e9a51";
constexpr char kHoleFill[] = "url(#hole)";

struct StateLook {
  memory::PageState state;
  const char* name;
  const char* colour;
};
constexpr StateLook kLooks[] = {
    {memory::PageState::kPrivate, "private", "#24507a"},
    {memory::PageState::kShared, "shared", "#f0932b"},
    {memory::PageState::kAliased, "aliased", "#a06cd5"},
};

uint64_t BytesOf(const std::array<uint64_t, 4>& cell, const StateLook& look) {
  return cell[static_cast<size_t>(look.state)];
}

// At most four digits: "2.5 GiB".
std::string Size(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit < 5; ++unit) value /= 1024;
  return absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Span(const memory::GuestRange& range) {
  return absl::StrFormat("0x%x - 0x%x", range.start().value(),
                         range.last().value());
}

class Picture {
 public:
  Picture(absl::Span<const MapSegment> map, absl::string_view title)
      : map_(map) {
    Text(kMargin, 40, 22, "#1b1b1b", title);
    Totals();
    Legend();
    Strip();
    for (const MapSegment& segment : map_) {
      if (segment.kind == Kind::kRam) Grid(segment);
    }
    Table();
  }

  std::string Finish() const {
    const int height = y_ + 24;
    return absl::StrCat(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", kWidth, " ",
        height, "\" width=\"", kWidth, "\" height=\"", height,
        "\" font-family=\"DejaVu Sans, Helvetica, sans-serif\">\n"
        "<defs><pattern id=\"hole\" width=\"8\" height=\"8\" "
        "patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
        "<rect width=\"8\" height=\"8\" fill=\"#f3f3f3\"/>"
        "<rect width=\"2\" height=\"8\" fill=\"#d2d2d2\"/></pattern></defs>\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        body_, "</svg>\n");
  }

 private:
  void Text(double x, double y, int size, absl::string_view colour,
            absl::string_view text) {
    absl::StrAppendFormat(
        &body_,
        "<text x=\"%.5g\" y=\"%.5g\" font-size=\"%d\" fill=\"%s\">%s</text>\n",
        x, y, size, colour, Escape(text));
  }
  void Rect(double x, double y, double width, double height,
            absl::string_view fill) {
    absl::StrAppendFormat(&body_,
                          "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" "
                          "height=\"%.6g\" fill=\"%s\"/>\n",
                          x, y, width, height, fill);
  }
  void Frame(double x, double y, double width, double height) {
    absl::StrAppendFormat(&body_,
                          "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" "
                          "height=\"%.6g\" fill=\"none\" "
                          "stroke=\"#555555\"/>\n",
                          x, y, width, height);
  }

  void Totals() {
    for (const MapSegment& segment : map_) {
      for (const auto& cell : segment.cells) {
        for (size_t i = 0; i < cell.size(); ++i) totals_[i] += cell[i];
      }
      if (segment.kind == Kind::kHole) holes_ += segment.range.size();
      if (segment.kind == Kind::kWindow) windows_ += segment.range.size();
    }
  }

  void Legend() {
    double x = kMargin;
    auto entry = [&](absl::string_view fill, absl::string_view name,
                     uint64_t bytes) {
      Rect(x, 60, 18, 18, fill);
      Frame(x, 60, 18, 18);
      const std::string text = absl::StrCat(name, " ", Size(bytes));
      Text(x + 26, 74, 14, "#1b1b1b", text);
      x += 60 + 8.6 * static_cast<double>(text.size());
    };
    for (const StateLook& look : kLooks) {
      entry(look.colour, look.name, BytesOf(totals_, look));
    }
    entry(kWindowColour, "device windows", windows_);
    entry(kHoleFill, "holes", holes_);
    y_ = 100;
  }

  // Every segment has its place, the larger ones more: by the logarithm.
  void Strip() {
    Text(kMargin, y_ + 12, 13, "#555555",
         "The address space (not to scale: a larger stretch is wider)");
    y_ += 22;
    double sum = 0;
    auto weight = [](const MapSegment& segment) {
      return 4.0 + std::bit_width(segment.range.size() >> memory::kPageShift);
    };
    for (const MapSegment& segment : map_) sum += weight(segment);
    double x = kMargin;
    for (const MapSegment& segment : map_) {
      const double width = kInner * weight(segment) / sum;
      Fill(segment, x, width);
      if (width > 90) {
        Text(x, y_ + 58, 11, "#555555",
             absl::StrFormat("0x%x", segment.range.start().value()));
      }
      x += width;
    }
    y_ += 84;
  }

  void Fill(const MapSegment& segment, double x, double width) {
    if (segment.kind == Kind::kRam) {
      std::array<uint64_t, 4> sum = {};
      for (const auto& cell : segment.cells) {
        for (size_t i = 0; i < cell.size(); ++i) sum[i] += cell[i];
      }
      Stack(sum, x, width, y_, 42);
    } else {
      Rect(x, y_, width, 42,
           segment.kind == Kind::kWindow ? kWindowColour : kHoleFill);
    }
    Frame(x, y_, width, 42);
  }

  // One above the other, in proportion.
  void Stack(const std::array<uint64_t, 4>& bytes, double x, double width,
             double y, double height) {
    uint64_t sum = 0;
    for (const StateLook& look : kLooks) sum += BytesOf(bytes, look);
    if (sum == 0) return;
    for (const StateLook& look : kLooks) {
      if (BytesOf(bytes, look) == 0) continue;
      const double part = height * static_cast<double>(BytesOf(bytes, look)) /
                          static_cast<double>(sum);
      // Never so thin that a few shared pages cannot be seen.
      Rect(x, y, width, std::max(part, 1.5), look.colour);
      y += part;
    }
  }

  void Grid(const MapSegment& segment) {
    Text(kMargin, y_ + 12, 13, "#1b1b1b",
         absl::StrCat(segment.name, "  ", Span(segment.range), "  ",
                      Size(segment.range.size()), ", a cell is ",
                      Size(segment.cell_bytes)));
    y_ += 20;
    const size_t count = segment.cells.size();
    for (size_t i = 0; i < count;) {
      // Equal neighbours of one row are one rectangle.
      size_t end = i + 1;
      while (end < count && end % kColumns != 0 &&
             segment.cells[end] == segment.cells[i]) {
        ++end;
      }
      Stack(segment.cells[i],
            kMargin + kCell * static_cast<double>(i % kColumns),
            kCell * static_cast<double>(end - i),
            y_ + static_cast<int>(i / kColumns) * kRowHeight, kRowHeight - 1);
      i = end;
    }
    y_ += static_cast<int>((count + kColumns - 1) / kColumns) * kRowHeight + 16;
  }

  void Table() {
    Text(kMargin, y_ + 12, 13, "#555555", "Stretches");
    y_ += 20;
    for (size_t i = 0; i < map_.size() && i < kTableRows; ++i) {
      const MapSegment& segment = map_[i];
      Text(kMargin, y_ + 12, 12, "#1b1b1b", segment.name);
      Text(kMargin + 240, y_ + 12, 12, "#1b1b1b", Span(segment.range));
      Text(kMargin + 560, y_ + 12, 12, "#1b1b1b", Size(segment.range.size()));
      y_ += 18;
    }
    if (map_.size() > kTableRows) {
      Text(kMargin, y_ + 12, 12, "#1b1b1b",
           absl::StrCat("and ", map_.size() - kTableRows, " more"));
      y_ += 18;
    }
  }

  absl::Span<const MapSegment> map_;
  std::string body_;
  int y_ = 0;
  std::array<uint64_t, 4> totals_ = {};
  uint64_t windows_ = 0;
  uint64_t holes_ = 0;
};

}  // namespace

std::string MapSvg(absl::Span<const MapSegment> map, absl::string_view title) {
  return Picture(map, title).Finish();
}

}  // namespace cloister::api
