// SPDX-License-Identifier: Apache-2.0
//
// A conversion listener at work, without a VM: a guest shares memory, takes
// some back, and shares more than the device has entries for.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/examples/dma_mapper.h"
#include "cloister/examples/dma_mirror.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"

namespace {

namespace memory = cloister::memory;
using cloister::examples::DmaMirror;
using cloister::examples::FakeDmaMapper;
using memory::GuestAddress;
using memory::GuestRange;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kRam = 64 * kMiB;
constexpr uint64_t kPrivateBit = uint64_t{1} << 4;  // KVM_MAP_GPA_RANGE

// Changes nothing: there is no VM. The backends in confidential/ call KVM.
class NoBackend : public memory::PageBackend {
 public:
  absl::string_view name() const override { return "none"; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kLost;
  }
  uint64_t preferred_chunk() const override { return 2 * kMiB; }
  memory::PageProgress SetAttributes(const GuestRange& range,
                                     memory::PageState) override {
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
};

void Guest(memory::ConversionBroker& broker, FakeDmaMapper& mapper,
           const char* what, uint64_t address, uint64_t size, bool shared) {
  const auto result = broker.ConvertForGuest(address, size / memory::kPageSize,
                                             shared ? 0 : kPrivateBit);
  std::printf("%s: %s\n", what,
              result.detail.ok()
                  ? "done"
                  : std::string(result.detail.message()).c_str());
  for (const GuestRange& entry : mapper.entries()) {
    std::printf("  %#10" PRIx64 " %#10" PRIx64 "\n", entry.start().value(),
                entry.size());
  }
}

absl::Status Run() {
  auto mapping = memory::HostMapping::CreateMemfd("ram", kRam, {});
  if (!mapping.ok()) return mapping.status();
  auto region =
      memory::MemoryRegion::Create(GuestAddress(0), std::move(*mapping));
  if (!region.ok()) return region.status();
  std::vector<memory::MemoryRegion> regions;
  regions.push_back(std::move(*region));
  auto ram = memory::GuestMemory::Create(std::move(regions));
  if (!ram.ok()) return ram.status();
  memory::PageStateMap states;
  NoBackend backend;
  auto view = memory::SharedView::Create(&*ram, &states);
  if (!view.ok()) return view.status();
  auto broker =
      memory::ConversionBroker::Create(&states, &backend, view->get(), {});
  if (!broker.ok()) return broker.status();
  auto all = GuestRange::Create(GuestAddress(0), kRam);
  absl::Status added = (*broker)->AddRam(*all, memory::PageState::kPrivate);
  if (!added.ok()) return added;

  FakeDmaMapper mapper(/*entry_limit=*/6);
  DmaMirror mirror(&mapper);
  absl::Status mapped = mirror.MapExisting(states, *all);
  if (!mapped.ok()) return mapped;
  (*broker)->AddListener(&mirror);
  (*broker)->GuestStarted();
  Guest(**broker, mapper, "share 4 MiB", 16 * kMiB, 4 * kMiB, true);
  Guest(**broker, mapper, "take back a page", 17 * kMiB, 4096, false);
  Guest(**broker, mapper, "share 32 MiB", 32 * kMiB, 32 * kMiB, true);
  Guest(**broker, mapper, "take back 4 MiB", 16 * kMiB, 4 * kMiB, false);
  (*broker)->RemoveListener(&mirror);
  (*broker)->GuestStopped();
  return mirror.fatal();
}

}  // namespace

int main() {
  const absl::Status status = Run();
  if (!status.ok()) {
    std::fprintf(stderr, "dma_mirror: %s\n",
                 std::string(status.message()).c_str());
  }
  return status.ok() ? 0 : 1;
}
