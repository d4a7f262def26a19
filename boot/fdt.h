// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_FDT_H_
#define CLOISTER_BOOT_FDT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cloister::boot {

// Writes a flattened device tree (Devicetree Specification 0.4, chapter 5) with
// libfdt's sequential writer: nodes and properties in the order of the calls,
// properties before subnodes. The first node is the root and has an empty name.
// Calls after an error do nothing; Finish() reports it. Not thread-safe.
class FdtBuilder {
 public:
  FdtBuilder();

  void BeginNode(absl::string_view name);
  void EndNode();
  // A property without a value.
  void Empty(absl::string_view name);
  void U32(absl::string_view name, uint32_t value);
  void U64(absl::string_view name, uint64_t value);
  // 64-bit cells one after the other, such as (address, size) pairs.
  void U64List(absl::string_view name, absl::Span<const uint64_t> values);
  // 32-bit cells, such as an interrupt's.
  void U32List(absl::string_view name, absl::Span<const uint32_t> values);
  // NUL-terminated.
  void String(absl::string_view name, absl::string_view value);
  void Bytes(absl::string_view name, absl::Span<const uint8_t> value);

  // The finished tree. InvalidArgument, naming the first call that failed, if
  // the calls do not make a tree. Call once.
  absl::StatusOr<std::vector<uint8_t>> Finish();

 private:
  // Runs `step`, which returns a libfdt error, with as much room as it needs.
  template <typename Step>
  void Run(absl::string_view what, Step step);

  // Fails unless `allowed`: libfdt writes what it is told.
  void Expect(bool allowed, absl::string_view what);

  std::vector<uint8_t> buffer_;
  absl::Status status_;
  int depth_ = 0;
  // The last call ended a node.
  bool after_node_ = false;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_FDT_H_
