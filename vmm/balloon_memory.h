// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_BALLOON_MEMORY_H_
#define CLOISTER_VMM_BALLOON_MEMORY_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::vmm {

// What a balloon takes from a VM: the conversion broker frees the memory behind
// the pages, and they stay private or shared as they were.
//
// Called by one thread, while the guest and others convert pages.
class BalloonMemory : public devices::virtio::BalloonPages {
 public:
  // All outlive this. `broker` is null where nothing is private. `windows` are
  // RAM that is not the guest's to give up.
  BalloonMemory(memory::PageStateMap* states, memory::PageBackend* backend,
                memory::ConversionBroker* broker,
                std::vector<memory::GuestRange> windows = {})
      : states_(states),
        backend_(backend),
        broker_(broker),
        windows_(std::move(windows)) {}

  absl::StatusOr<uint64_t> GiveUp(const memory::GuestRange& range) override;
  absl::Status TakeBack(const memory::GuestRange& range) override;
  absl::Status TakeBackAll() override;
  absl::StatusOr<uint64_t> Discard(const memory::GuestRange& range) override;

 private:
  // InvalidArgument unless the guest may give up all of `range`.
  absl::Status Check(const memory::GuestRange& range) const;

  memory::PageStateMap* const states_;
  memory::PageBackend* const backend_;
  memory::ConversionBroker* const broker_;
  const std::vector<memory::GuestRange> windows_;
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_BALLOON_MEMORY_H_
