// SPDX-License-Identifier: Apache-2.0
//
// A driver that does whatever a byte stream says, for fuzz targets of devices.
#ifndef CLOISTER_DEVICES_VIRTIO_HOSTILE_DRIVER_H_
#define CLOISTER_DEVICES_VIRTIO_HOSTILE_DRIVER_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::devices::virtio {

inline void FuzzRequire(bool condition, const char* what) {
  if (condition) return;
  std::cerr << what << std::endl;
  std::abort();
}

// The input, number by number; zeros at its end.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : left_(data, size) {}
  bool empty() const { return left_.empty(); }
  template <typename T>
  T Take() {
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T) && !left_.empty(); ++i) {
      value |= uint64_t{left_[0]} << (8 * i);
      left_.remove_prefix(1);
    }
    return static_cast<T>(value);
  }
  bool Flip() { return (Take<uint8_t>() & 1) != 0; }
  // 0 to `most`, at most 65535.
  uint32_t UpTo(uint32_t most) {
    return (most < 256 ? Take<uint8_t>() : Take<uint16_t>()) % (most + 1);
  }
  std::vector<uint8_t> Bytes(size_t size) {
    const absl::Span<const uint8_t> part = left_.subspan(0, size);
    left_.remove_prefix(part.size());
    return std::vector<uint8_t>(part.begin(), part.end());
  }

 private:
  absl::Span<const uint8_t> left_;
};

// Works a device's queues with requests that are nearly right, descriptors that
// are wrong, memory that becomes private, and resets. Whatever the input, the
// device must answer or need a reset, and give back every lease.
class HostileDriver {
 public:
  struct Options {
    // The readable bytes of a request for a queue, mostly as they should be.
    std::function<std::vector<uint8_t>(uint16_t queue)> request;
    // Whatever the host does meanwhile.
    std::function<void()> host;
  };
  static constexpr uint64_t kPages = 8;   // for requests
  static constexpr uint8_t kMark = 0x5a;  // fills private pages

  // All outlive this. `loop` is the device's worker's.
  HostileDriver(VirtioDevice& device, base::EventLoop& loop, FakeRam& ram,
                FuzzInput& input, Options options)
      : device_(device),
        loop_(loop),
        ram_(ram),
        input_(input),
        options_(std::move(options)),
        pages_(ram.AllocPages(kPages)) {
    FakeDriver::Options with;
    with.packed = input.Flip();
    with.indirect = input.Flip();
    with.event_idx = input.Flip();
    with.features = ~uint64_t{input.Take<uint32_t>()};
    with.queue_size = 16;
    driver_ = std::make_unique<FakeDriver>(device, ram, with);
    FuzzRequire(driver_->Activate().ok(), "activate");
  }

  void Run() {
    for (int step = 0; step < 48 && !input_.empty(); ++step) Step();
    Settle();
    FuzzRequire(driver_->Reset(), "the reset is never done");
    FuzzRequire(ram_.LeasedBytes() == 0, "leases leak");
    CheckPrivate();
  }

 private:
  uint16_t AnyQueue() {
    return static_cast<uint16_t>(
        input_.UpTo(static_cast<uint32_t>(device_.queue_sizes().size()) - 1));
  }
  memory::GuestAddress AnyAddress() {
    const uint32_t offset = input_.UpTo(kPages * memory::kPageSize);
    if (input_.UpTo(15) == 0) {
      return memory::GuestAddress(input_.Take<uint64_t>());
    }
    return *pages_.Plus(offset);
  }
  // Everything that was kicked and written has been seen.
  void Settle() {
    for (int turn = 0; turn < 2; ++turn) {
      std::promise<void> seen;
      loop_.Post([&seen] { seen.set_value(); });
      seen.get_future().wait();
    }
  }

  void Step() {
    const uint16_t index = AnyQueue();
    DriverFake& queue = driver_->queue(index);
    switch (input_.UpTo(9)) {
      case 0:
      case 1:
      case 2:
        Offer(queue, index);
        break;
      case 3:
        options_.host();
        break;
      case 4:
        queue.WriteDescriptor(input_.Take<uint8_t>() % queue.size(),
                              AnyAddress().value(), input_.Take<uint32_t>(),
                              input_.Take<uint16_t>(), input_.Take<uint8_t>());
        break;
      case 5:
        if (queue.config().packed) break;
        if (input_.Flip()) {
          queue.OfferHead(input_.Take<uint8_t>());
        } else {
          queue.WriteAvailIndex(input_.Take<uint16_t>());
        }
        driver_->Kick(index);
        break;
      case 6:
        Settle();
        while (queue.PopUsed().has_value()) {
        }
        break;
      case 7:
        ChangePage();
        break;
      case 8:
        Restart();
        break;
      case 9:
        Configure();
        break;
    }
  }

  void Offer(DriverFake& queue, uint16_t index) {
    const std::vector<uint8_t> bytes = options_.request(index);
    std::vector<DriverFake::Buffer> buffers;
    const uint64_t page = input_.UpTo(kPages - 1);
    const memory::GuestAddress at = *pages_.Plus(page * memory::kPageSize);
    if (!bytes.empty()) {
      const size_t size = std::min<size_t>(bytes.size(), memory::kPageSize);
      if (!private_[page]) {
        ram_.Write(at, absl::MakeConstSpan(bytes).subspan(0, size));
      }
      buffers.push_back({at, static_cast<uint32_t>(size), false});
    }
    if (bytes.empty() || input_.UpTo(15) == 0) {
      const uint64_t sizes[] = {4096, 2000, 64, 12, 1, 20000};
      buffers.push_back({AnyAddress(),
                         static_cast<uint32_t>(sizes[input_.UpTo(5)]),
                         input_.UpTo(15) != 0});
    }
    queue.Offer(buffers, input_.Flip());
    if (input_.UpTo(3) != 0) driver_->Kick(index);
    if (input_.Flip()) Settle();
  }

  // A page becomes private, which nothing may touch from then on, or shared.
  void ChangePage() {
    const uint64_t page = input_.UpTo(kPages - 1);
    const memory::GuestAddress at = *pages_.Plus(page * memory::kPageSize);
    if (private_[page]) {
      CheckPrivate();
      // No mark is left in what the host may see.
      ram_.Write(at, std::vector<uint8_t>(memory::kPageSize, 0));
      ram_.SetState(at, 1, memory::PageState::kShared);
    } else {
      // What has a lease on it stays shared in a real VM.
      FuzzRequire(driver_->Reset(), "the reset is never done");
      ram_.SetState(at, 1, memory::PageState::kPrivate);
      ram_.Write(at, std::vector<uint8_t>(memory::kPageSize, kMark));
      FuzzRequire(driver_->Activate().ok(), "activate");
    }
    private_[page] = !private_[page];
  }

  void CheckPrivate() {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (!private_[page]) continue;
      for (uint8_t byte : ram_.Bytes(*pages_.Plus(page * memory::kPageSize),
                                     memory::kPageSize)) {
        FuzzRequire(byte == kMark, "private memory was written");
      }
    }
  }

  void Restart() {
    Settle();
    FuzzRequire(driver_->Reset(), "the reset is never done");
    FuzzRequire(ram_.LeasedBytes() == 0, "leases leak over a reset");
    FuzzRequire(driver_->Activate().ok(), "activate again");
  }

  void Configure() {
    std::vector<uint8_t> bytes = input_.Bytes(input_.UpTo(8));
    const uint64_t offset =
        input_.UpTo(7) == 0 ? input_.Take<uint64_t>() : input_.UpTo(20);
    if (input_.Flip()) {
      device_.WriteConfig(offset, bytes);
    } else {
      device_.ReadConfig(offset, absl::MakeSpan(bytes));
    }
  }

  VirtioDevice& device_;
  base::EventLoop& loop_;
  FakeRam& ram_;
  FuzzInput& input_;
  const Options options_;
  const memory::GuestAddress pages_;
  bool private_[kPages] = {};
  std::unique_ptr<FakeDriver> driver_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_HOSTILE_DRIVER_H_
