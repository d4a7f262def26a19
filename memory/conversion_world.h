// SPDX-License-Identifier: Apache-2.0
//
// A conversion broker over fakes, and what looks for anything wrong with the
// whole (test only).
#ifndef CLOISTER_MEMORY_CONVERSION_WORLD_H_
#define CLOISTER_MEMORY_CONVERSION_WORLD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/fake_backend.h"
#include "cloister/memory/fault_listener.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"

namespace cloister::memory {

// 256 KiB of RAM, all private but for four aliased pages, and two listeners.
// Above it memory for an exchange window; windows start out shared. The guest
// runs; `Building` leaves that to the test.
struct ConversionWorld {
  static constexpr uint64_t kEnd = 0x40000;        // of RAM
  static constexpr uint64_t kAliasedEnd = 0x4000;  // below it, aliased
  static constexpr uint64_t kChunk = 4 * kPageSize;
  static constexpr uint64_t kWindow = 0x100000;  // memory for a window
  static constexpr uint64_t kWindowSize = 0x4000;
  static constexpr uint64_t kToPrivate = 0x10;  // hypercall attributes
  static constexpr uint64_t kToShared = 0;

  static GuestRange Range(uint64_t start, uint64_t size) {
    return *GuestRange::Create(GuestAddress(start), size);
  }
  static GuestRange Page(uint64_t start) { return Range(start, kPageSize); }

  static GuestRange Window() { return Range(kWindow, kWindowSize); }
  static ConversionBrokerOptions WithWindow() {
    ConversionBrokerOptions options;
    options.exchange_windows = {Window()};
    return options;
  }

  explicit ConversionWorld(ConversionBrokerOptions options = {},
                           ConversionContent content = ConversionContent::kLost)
      : ConversionWorld(std::move(options), content, /*log_steps=*/true) {
    broker->GuestStarted();
  }
  static std::unique_ptr<ConversionWorld> Building(
      ConversionBrokerOptions options = {}) {
    return std::unique_ptr<ConversionWorld>(new ConversionWorld(
        std::move(options), ConversionContent::kLost, /*log_steps=*/true));
  }
  // For tests of millions of steps.
  static std::unique_ptr<ConversionWorld> Silent(
      ConversionBrokerOptions options) {
    std::unique_ptr<ConversionWorld> world(new ConversionWorld(
        std::move(options), ConversionContent::kLost, /*log_steps=*/false));
    world->broker->GuestStarted();
    return world;
  }

  GuestConversion Guest(const GuestRange& range, uint64_t attributes) {
    return broker->ConvertForGuest(range.start().value(),
                                   range.size() / kPageSize, attributes);
  }
  FaultConversion Fault(uint64_t page, PageState wanted) {
    return broker->ConvertForFault(GuestAddress(page), wanted,
                                   states.CurrentGeneration());
  }
  absl::StatusOr<uint64_t> Host(const GuestRange& range, PageState to,
                                HostConversionReason reason) {
    return broker->ConvertForHost({&range, 1}, to, reason);
  }
  void Fill(uint64_t salt) {
    for (uint64_t at = kAliasedEnd; at < kEnd; at += kPageSize) {
      backend.GuestWrite(GuestAddress(at), at + salt);
    }
  }
  uint64_t Read(uint64_t page) { return backend.GuestRead(GuestAddress(page)); }
  PageState State(uint64_t page) const {
    return states.Get(GuestAddress(page));
  }

  // What is wrong with the whole; "" if nothing is. Backing that is not
  // accounted for as leftover or pending counts.
  std::string Wrong() {
    // Asked first: pages that were pending may be freed meanwhile.
    const ConversionStats stats = broker->stats();
    const uint64_t noted = stats.pending_private_bytes + stats.leftover_bytes;
    uint64_t double_backed = 0;
    for (uint64_t at = kAliasedEnd; at < kEnd; at += kPageSize) {
      const GuestAddress page(at);
      const PageState state = states.Get(page);
      const FakeBackend::Page cell = backend.Get(page);
      if (cell.attribute != state) {
        return absl::StrCat(page.ToString(), ": the map says ",
                            PageStateName(state), ", the backend ",
                            PageStateName(cell.attribute));
      }
      const bool other = state == PageState::kShared ? cell.private_.has_value()
                                                     : cell.shared.has_value();
      if (backend.content() == ConversionContent::kLost && other) {
        double_backed += kPageSize;
      }
    }
    if (double_backed > noted) {
      return absl::StrCat(double_backed, " bytes are backed twice, unnoticed");
    }
    if (!backend.violations().empty()) return backend.violations()[0];
    return WrongListener();
  }

  std::string WrongListener() {
    std::vector<GuestRange> shared;
    states.ForEachRange(Range(0, kEnd), [&](const StateRange& part) {
      if (part.state == PageState::kShared) shared.push_back(part.range);
      return true;
    });
    for (FaultListener* listener : {&a, &b}) {
      if (!listener->violations().empty()) return listener->violations()[0];
      if (listener->half_prepared() != 0) return "half prepared";
      std::vector<GuestRange> mapped = listener->mapped();
      std::erase_if(mapped, [](const GuestRange& range) {
        return range.start().value() >= kWindow;
      });
      if (mapped != shared) return "mapped is not what is shared";
    }
    return "";
  }

  StepLog log;
  FakeBackend backend;
  FaultListener a;
  FaultListener b;
  PageStateMap states;
  std::optional<GuestMemory> memory;
  std::unique_ptr<SharedView> view;
  std::unique_ptr<ConversionBroker> broker;

 private:
  ConversionWorld(ConversionBrokerOptions options, ConversionContent content,
                  bool log_steps)
      : backend(content, kChunk, log_steps ? &log : nullptr),
        a("a", log_steps ? &log : nullptr),
        b("b", log_steps ? &log : nullptr) {
    std::vector<MemoryRegion> regions;
    AddRegion(0, kEnd, &regions);
    AddRegion(kWindow, kWindowSize, &regions);
    memory.emplace(GuestMemory::Create(std::move(regions)).value());
    view = SharedView::Create(&*memory, &states).value();
    const std::vector<GuestRange> windows = options.exchange_windows;
    broker = ConversionBroker::Create(&states, &backend, view.get(),
                                      std::move(options))
                 .value();
    Must(broker->AddRam(Range(0, kAliasedEnd), PageState::kAliased));
    Must(broker->AddRam(Range(kAliasedEnd, kEnd - kAliasedEnd),
                        PageState::kPrivate));
    for (const GuestRange& window : windows) {
      Must(broker->AddExchangeWindow(window, PageState::kShared));
    }
    broker->AddListener(&a);
    broker->AddListener(&b);
    log.Take();
  }

  static void AddRegion(uint64_t start, uint64_t size,
                        std::vector<MemoryRegion>* regions) {
    regions->push_back(
        MemoryRegion::Create(GuestAddress(start),
                             HostMapping::CreateMemfd("ram", size, {}).value())
            .value());
  }
  // Ends the program, with a message, if `status` is an error.
  static void Must(const absl::Status& status) {
    if (!status.ok()) absl::StatusOr<int>(status).value();
  }
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_WORLD_H_
