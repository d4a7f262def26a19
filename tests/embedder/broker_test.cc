// SPDX-License-Identifier: Apache-2.0
//
// The conversion broker alone, with page states, a shared view and a backend of
// the embedder's own: a guest shares a page, a device reads it under a lease,
// the guest takes it back, and the device is refused.
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"

namespace memory = cloister::memory;
using memory::GuestAddress;
using memory::GuestRange;

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRam = 256 * kPage;

// Notes what it is told. A real one calls KVM.
class Backend : public memory::PageBackend {
 public:
  absl::string_view name() const override { return "embedder"; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kLost;
  }
  uint64_t preferred_chunk() const override { return kPage; }
  memory::PageProgress SetAttributes(const GuestRange& range,
                                     memory::PageState to) override {
    (to == memory::PageState::kShared ? to_shared : to_private) += range.size();
    return {absl::OkStatus(), range.size()};
  }
  absl::Status ReserveShared(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status FreeShared(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status FreePrivate(const GuestRange&) override {
    return absl::OkStatus();
  }
  absl::Status ForEachBacked(
      memory::BackingSide, const GuestRange&,
      absl::FunctionRef<void(const GuestRange&)>) override {
    return absl::OkStatus();
  }

  uint64_t to_shared = 0;
  uint64_t to_private = 0;
};

bool DeviceReads(memory::SharedView& view) {
  uint8_t byte = 0;
  return view.Read(GuestAddress(3 * kPage), absl::MakeSpan(&byte, 1)).ok();
}

absl::Status Exercise() {
  auto mapping = memory::HostMapping::CreateMemfd("embedder", kRam, {});
  if (!mapping.ok()) return mapping.status();
  auto region =
      memory::MemoryRegion::Create(GuestAddress(0), std::move(*mapping));
  if (!region.ok()) return region.status();
  std::vector<memory::MemoryRegion> regions;
  regions.push_back(std::move(*region));
  auto ram = memory::GuestMemory::Create(std::move(regions));
  if (!ram.ok()) return ram.status();
  memory::PageStateMap states;
  Backend backend;
  auto view = memory::SharedView::Create(&*ram, &states);
  if (!view.ok()) return view.status();
  auto broker =
      memory::ConversionBroker::Create(&states, &backend, view->get(), {});
  if (!broker.ok()) return broker.status();
  auto all = GuestRange::Create(GuestAddress(0), kRam);
  if (!all.ok()) return all.status();
  absl::Status added = (*broker)->AddRam(*all, memory::PageState::kPrivate);
  if (!added.ok()) return added;
  (*broker)->GuestStarted();

  if (DeviceReads(**view)) return absl::InternalError("read a private page");
  // MAP_GPA_RANGE: attribute bit 4 set is private, clear is shared.
  (*broker)->ConvertForGuest(3 * kPage, 1, 0);
  if (!DeviceReads(**view)) return absl::InternalError("no shared page");
  (*broker)->ConvertForGuest(3 * kPage, 1, 1 << 4);
  if (DeviceReads(**view)) return absl::InternalError("read a private page");
  if (backend.to_shared != kPage || backend.to_private < kPage) {
    return absl::InternalError("the backend was not told");
  }
  (*broker)->GuestStopped();
  return absl::OkStatus();
}

}  // namespace

int main() {
  const absl::Status status = Exercise();
  std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
