// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/fdt.h"

#include <libfdt.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace cloister::boot {
namespace {

constexpr size_t kFirstSize = 4096;
// Far above any tree that a monitor writes; libfdt sizes are ints.
constexpr size_t kLargestSize = size_t{64} << 20;

}  // namespace

template <typename Step>
void FdtBuilder::Run(absl::string_view what, Step step) {
  while (status_.ok()) {
    int error = step(buffer_.data());
    if (error == 0) return;
    if (error != -FDT_ERR_NOSPACE || buffer_.size() >= kLargestSize) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("device tree: ", what, ": ", fdt_strerror(error)));
      return;
    }
    std::vector<uint8_t> larger(buffer_.size() * 2);
    error = fdt_resize(buffer_.data(), larger.data(),
                       static_cast<int>(larger.size()));
    if (error != 0) {
      status_ = absl::InternalError(absl::StrCat(
          "device tree: resize to ", larger.size(), ": ", fdt_strerror(error)));
      return;
    }
    buffer_ = std::move(larger);
  }
}

FdtBuilder::FdtBuilder() : buffer_(kFirstSize) {
  Run("create", [this](void* fdt) {
    return fdt_create(fdt, static_cast<int>(buffer_.size()));
  });
  Run("reservation map", [](void* fdt) { return fdt_finish_reservemap(fdt); });
}

void FdtBuilder::Expect(bool allowed, absl::string_view what) {
  if (allowed || !status_.ok()) return;
  status_ =
      absl::InvalidArgumentError(absl::StrCat("device tree: misplaced ", what));
}

void FdtBuilder::BeginNode(absl::string_view name) {
  std::string copy(name);
  bool root = depth_ == 0 && !after_node_;
  Expect(root ? name.empty() : depth_ > 0 && !name.empty(),
         absl::StrCat("node '", name, "'"));
  ++depth_;
  after_node_ = false;
  Run(absl::StrCat("node '", name, "'"),
      [&](void* fdt) { return fdt_begin_node(fdt, copy.c_str()); });
}

void FdtBuilder::EndNode() {
  Expect(depth_ > 0, "end of node");
  --depth_;
  after_node_ = true;
  Run("end of node", [](void* fdt) { return fdt_end_node(fdt); });
}

void FdtBuilder::Bytes(absl::string_view name,
                       absl::Span<const uint8_t> value) {
  std::string copy(name);
  Expect(depth_ > 0 && !after_node_, absl::StrCat("property '", name, "'"));
  Run(absl::StrCat("property '", name, "'"), [&](void* fdt) {
    return fdt_property(fdt, copy.c_str(), value.data(),
                        static_cast<int>(value.size()));
  });
}

void FdtBuilder::Empty(absl::string_view name) { Bytes(name, {}); }

void FdtBuilder::U32(absl::string_view name, uint32_t value) {
  U32List(name, {value});
}

void FdtBuilder::U32List(absl::string_view name,
                         absl::Span<const uint32_t> values) {
  std::vector<fdt32_t> cells;
  for (uint32_t value : values) cells.push_back(cpu_to_fdt32(value));
  Bytes(name,
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(cells.data()),
                            cells.size() * sizeof(fdt32_t)));
}

void FdtBuilder::U64(absl::string_view name, uint64_t value) {
  U64List(name, {value});
}

void FdtBuilder::U64List(absl::string_view name,
                         absl::Span<const uint64_t> values) {
  std::vector<fdt64_t> cells;
  for (uint64_t value : values) cells.push_back(cpu_to_fdt64(value));
  Bytes(name,
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(cells.data()),
                            cells.size() * sizeof(fdt64_t)));
}

void FdtBuilder::String(absl::string_view name, absl::string_view value) {
  std::string copy(value);
  Bytes(name, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(copy.data()),
                                  copy.size() + 1));
}

absl::StatusOr<std::vector<uint8_t>> FdtBuilder::Finish() {
  Expect(depth_ == 0 && after_node_, "finish");
  Run("finish", [](void* fdt) { return fdt_finish(fdt); });
  if (!status_.ok()) return status_;
  buffer_.resize(fdt_totalsize(buffer_.data()));
  return std::move(buffer_);
}

}  // namespace cloister::boot
