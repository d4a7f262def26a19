// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_EXAMPLES_DMA_MAPPER_H_
#define CLOISTER_EXAMPLES_DMA_MAPPER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/guest_address.h"

namespace cloister::examples {

// What lets a device reach guest memory by address, in entries of which there
// are only so many: VFIO's type 1 driver takes 65535 by default, and unmaps
// whole entries only.
class DmaMapper {
 public:
  virtual ~DmaMapper() = default;

  // Entries that may exist at a time. Constant.
  virtual size_t entry_limit() const = 0;
  // Makes `entry` reachable. ResourceExhausted at the limit.
  virtual absl::Status Map(const memory::GuestRange& entry) = 0;
  // `entry` is one that was mapped, exactly; when this returns the device does
  // not reach it any more.
  virtual absl::Status Unmap(const memory::GuestRange& entry) = 0;
};

// Stands in for hardware: remembers, and refuses what hardware would refuse.
// Thread-safe.
class FakeDmaMapper : public DmaMapper {
 public:
  explicit FakeDmaMapper(size_t entry_limit) : limit_(entry_limit) {}

  size_t entry_limit() const override { return limit_; }
  absl::Status Map(const memory::GuestRange& entry) override;
  absl::Status Unmap(const memory::GuestRange& entry) override;

  std::vector<memory::GuestRange> entries();
  bool Reaches(memory::GuestAddress address);
  // The most entries there ever were.
  size_t peak();

 private:
  const size_t limit_;
  base::Mutex mutex_;
  // Start to size.
  std::map<uint64_t, uint64_t> entries_ ABSL_GUARDED_BY(mutex_);
  size_t peak_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::examples

#endif  // CLOISTER_EXAMPLES_DMA_MAPPER_H_
