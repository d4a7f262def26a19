// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_MEMORY_MAP_SVG_H_
#define CLOISTER_API_MEMORY_MAP_SVG_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/api/memory_view.h"

namespace cloister::api {

// Cells of a map for the picture: it then stays below 400 KiB whatever the
// guest does.
inline constexpr size_t kSvgCells = 1024;

// GET /memory/map.svg: the address space as a strip, each stretch of RAM as a
// grid whose cells are filled in proportion to the states of their pages, a
// legend with sizes, and a table of the stretches. 1200 units wide.
std::string MapSvg(absl::Span<const MapSegment> map, absl::string_view title);

}  // namespace cloister::api

#endif  // CLOISTER_API_MEMORY_MAP_SVG_H_
