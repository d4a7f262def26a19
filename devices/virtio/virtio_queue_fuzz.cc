// SPDX-License-Identifier: Apache-2.0
//
// Works a virtqueue against a driver that writes what it likes into rings,
// tables and buffers and takes pages away while the device looks. Beyond the
// sanitizers' findings it checks that chains are what their sizes say, that
// every refusal has a reason, and that no lease is left behind.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/devices/virtio/queue_error.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::kPageSize;
using memory::PageState;

constexpr uint64_t kRamStart = 0x100000;
constexpr uint64_t kRamSize = 64 * kPageSize;

void Require(bool condition) {
  if (!condition) std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool empty() const { return left_.empty(); }
  template <typename T = uint8_t>
  T Take() {
    T value = 0;
    for (size_t i = 0; i < sizeof(T) && !left_.empty(); ++i) {
      value = static_cast<T>(value | T{left_[0]} << (8 * i));
      left_.remove_prefix(1);
    }
    return value;
  }

 private:
  absl::Span<const uint8_t> left_;
};

// One queue and its hostile driver.
class World {
 public:
  explicit World(Input input) : input_(input) {
    const uint8_t flags = input_.Take();
    DriverFake::Options options;
    options.packed = (flags & 1) != 0;
    options.indirect = (flags & 2) != 0;
    options.event_idx = (flags & 4) != 0;
    options.size = static_cast<uint16_t>(1u << (flags >> 3 & 5));
    driver_ = std::make_unique<DriverFake>(ram_, options);
    auto queue = Queue::Create(driver_->config(), ram_.view());
    Require(queue.ok());
    queue_ = *std::move(queue);
  }

  void Run() {
    for (int step = 0; step < 256 && !input_.empty() && alive_; ++step) Step();
    chains_.clear();
    queue_.reset();
    Require(ram_.LeasedBytes() == 0);
  }

 private:
  GuestAddress Address() {
    // Mostly in memory, sometimes at its edges, rarely anywhere.
    const uint16_t bits = input_.Take<uint16_t>();
    switch (bits & 7) {
      case 0:
        return GuestAddress(kRamStart + kRamSize - (bits >> 8));
      case 1:
        return GuestAddress(~uint64_t{0} - (bits >> 8));
      case 2:
        return GuestAddress(input_.Take<uint64_t>());
      default:
        return GuestAddress(kRamStart + uint64_t{bits} * 4 % kRamSize);
    }
  }

  void Step() {
    switch (input_.Take() % 12) {
      case 0:
      case 1:
        return OfferWell();
      case 2:
        return WriteDescriptor();
      case 3:
        if (driver_->config().packed) return WriteDescriptor();
        return driver_->OfferHead(input_.Take());
      case 4:
        if (driver_->config().packed) return WriteDescriptor();
        return driver_->WriteAvailIndex(input_.Take<uint16_t>());
      case 5: {  // a byte anywhere
        const uint8_t byte = input_.Take();
        const uint64_t at = kRamStart + input_.Take<uint16_t>() % 4096;
        return ram_.Write(GuestAddress(at), {&byte, 1});
      }
      case 6: {
        const uint64_t page = input_.Take() % (kRamSize / kPageSize);
        return ram_.SetState(GuestAddress(kRamStart + page * kPageSize), 1,
                             static_cast<PageState>(input_.Take() % 4));
      }
      case 7:
      case 8:
        return Pop();
      case 9:
        return Push();
      case 10: {
        auto more = queue_->EnableKicks();
        return Check(more.status());
      }
      default:
        Check(queue_->DisableKicks());
        driver_->NeedsKick();
        driver_->PopUsed();
    }
  }

  void OfferWell() {
    std::array<DriverFake::Buffer, 4> buffers;
    const uint8_t shape = input_.Take();
    const size_t count = 1 + shape % buffers.size();
    for (size_t i = 0; i < count; ++i) {
      buffers[i] = {Address(), input_.Take<uint16_t>(), i >= (shape >> 4) % 5u};
    }
    // Tables are never given back: so many, then plain chains.
    const bool indirect = (shape & 8) != 0 && ++tables_ < 64;
    driver_->Offer(absl::MakeConstSpan(buffers.data(), count), indirect);
  }

  void WriteDescriptor() {
    const uint16_t index = input_.Take() % driver_->size();
    uint16_t flags = input_.Take() & 7;
    const uint8_t more = input_.Take();
    if (driver_->config().packed) flags |= driver_->AvailableFlags();
    driver_->WriteDescriptor(
        index, Address().value(),
        (more & 1) != 0 ? input_.Take<uint32_t>() : input_.Take() * 16u, flags,
        more >> 1);
  }

  void Pop() {
    auto chain = queue_->Pop();
    Check(chain.status());
    if (!chain.ok() || !chain->has_value()) return;
    Chain& got = **chain;
    Require(got.readable_size() <= UINT32_MAX - got.writable_size());
    Require(got.readable_size() + got.writable_size() > 0);
    Touch(got);
    if (input_.Take() % 8 == 0) {
      queue_->Unpop(**std::move(chain));
    } else {
      chains_.push_back(**std::move(chain));
      Require(chains_.size() <= queue_->size());
    }
  }

  // All of a chain is there to be read and written.
  void Touch(Chain& chain) {
    auto readable = chain.ReadableIovecs(0, chain.readable_size());
    auto writable = chain.WritableIovecs(0, chain.writable_size());
    Require(readable.ok() && writable.ok());
    uint64_t bytes = 0;
    for (const struct iovec& piece : *readable) bytes += piece.iov_len;
    Require(bytes == chain.readable_size());
    std::array<uint8_t, 64> some = {};
    const uint64_t count = std::min<uint64_t>(chain.readable_size(), 64);
    Require(chain
                .Read(chain.readable_size() - count,
                      absl::MakeSpan(some.data(), count))
                .ok());
    Require(!chain.Read(chain.readable_size(), absl::MakeSpan(some)).ok());
    const uint64_t room = std::min<uint64_t>(chain.writable_size(), 64);
    Require(chain
                .Write(chain.writable_size() - room,
                       absl::MakeConstSpan(some.data(), room))
                .ok());
    Require(!chain.Write(chain.writable_size(), some).ok());
  }

  void Push() {
    if (chains_.empty()) return;
    if (input_.Take() % 2 == 0) std::swap(chains_.front(), chains_.back());
    Chain chain = std::move(chains_.front());
    chains_.pop_front();
    Check(queue_->Push(std::move(chain), input_.Take<uint32_t>()));
    if (alive_) Check(queue_->NeedsInterrupt().status());
  }

  // An error has a reason, and ends the queue's use.
  void Check(const absl::Status& status) {
    if (status.ok()) return;
    Require(QueueErrorOf(status).has_value());
    alive_ = false;
  }

  Input input_;
  FakeRam ram_{kRamSize, kRamStart};
  std::unique_ptr<DriverFake> driver_;
  std::unique_ptr<Queue> queue_;
  std::deque<Chain> chains_;
  int tables_ = 0;
  bool alive_ = true;
};

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using cloister::devices::virtio::Input;
  using cloister::devices::virtio::World;
  World(Input(data, size)).Run();
  return 0;
}
