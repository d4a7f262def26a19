// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/console.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr std::array<uint16_t, 2> kQueueSizes = {128, 128};

// Feature bits (virtio 1.3, section 5.3.3).
constexpr int kSize = 0;
constexpr int kEmergencyWrite = 2;
constexpr uint64_t kEmergencyOffset = 8;
constexpr size_t kConfigSize = 12;

// Bytes of one request that are sent before others have their turn.
constexpr uint64_t kTurnBytes = 64 * 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<Console>> Console::Create(
    Options options, SerialSink& sink, std::unique_ptr<Worker> worker) {
  const RateLimiterConfig limit = options.tx_limit;
  std::unique_ptr<Console> console(
      new Console(std::move(options), sink, std::move(worker)));
  ASSIGN_OR_RETURN(
      console->limiter_,
      FlowLimiter::Create(console->runner_.loop(), limit,
                          [console = console.get()] { console->OnKick(kTx); }));
  return console;
}

uint64_t Console::features() const {
  return uint64_t{1} << kSize | uint64_t{1} << kEmergencyWrite;
}

absl::Span<const uint16_t> Console::queue_sizes() const { return kQueueSizes; }

void Console::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
  std::array<uint8_t, kConfigSize> config = {};
  base::StoreLe<uint32_t>(config.data(), size_);
  base::StoreLe<uint32_t>(&config[4], 1);  // ports
  for (size_t i = 0; i < data.size(); ++i) {
    const bool inside = offset < config.size() && i < config.size() - offset;
    data[i] = inside ? config[offset + i] : 0;
  }
}

void Console::WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) {
  // One character, for a guest whose driver is not up, or broken. Within the
  // limit, but there is nothing to keep a character in that is beyond it.
  if (offset != kEmergencyOffset || data.empty()) return;
  if (!limiter_->TakeNow(1)) return;
  emergency_bytes_.Add(sink_.Write(data.subspan(0, 1)));
}

void Console::SetSize(uint16_t columns, uint16_t rows) {
  size_ = uint32_t{rows} << 16 | columns;
  runner_.loop().Post([this] {
    if (Interrupts* interrupts = runner_.interrupts()) {
      interrupts->SignalConfig();
    }
  });
}

absl::Status Console::OnStart() {
  sent_ = 0;
  return absl::OkStatus();
}

void Console::OnStop() { limiter_->Cancel(); }

void Console::OnKick(uint16_t queue) {
  if (queue == kRx) {
    RunInput();
  } else {
    runner_.Serve(kTx, [this](Queue& from, Chain chain) {
      return Send(from, std::move(chain));
    });
  }
}

// --- From the guest.

absl::StatusOr<DeviceRunner::Next> Console::Send(Queue& queue, Chain chain) {
  if (chain.writable_size() != 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "output of a console in a writable buffer");
  }
  ASSIGN_OR_RETURN(bool all, SendSome(chain));
  if (!all) {
    queue.Unpop(std::move(chain));
    return DeviceRunner::Next::kStop;
  }
  sent_ = 0;
  RETURN_IF_ERROR(queue.Push(std::move(chain), 0));
  return DeviceRunner::Next::kMore;
}

absl::StatusOr<bool> Console::SendSome(const Chain& chain) {
  std::array<uint8_t, 1024> buffer;
  // A request that was put back may be another one by now.
  const uint64_t size = chain.readable_size();
  const uint64_t stop = std::min(size, sent_ + kTurnBytes);
  while (sent_ < stop) {
    auto part = absl::MakeSpan(buffer).subspan(
        0, std::min<uint64_t>(buffer.size(), stop - sent_));
    if (!limiter_->Take(part.size())) return false;
    RETURN_IF_ERROR(chain.Read(sent_, part));
    const size_t taken = sink_.Write(part);
    sent_ += taken;
    tx_bytes_.Add(taken);
    if (taken < part.size()) {
      limiter_->Return(part.size() - taken, 0);
      tx_waits_.Add();
      return false;  // OnSinkWritable goes on
    }
  }
  if (sent_ < size) runner_.Again(kTx);
  return sent_ >= size;
}

void Console::OnSinkWritable() {
  runner_.loop().Post([this] {
    if (runner_.active()) OnKick(kTx);
  });
}

// --- To the guest.

size_t Console::Enqueue(absl::Span<const uint8_t> bytes) {
  size_t taken;
  {
    base::MutexLock lock(&mutex_);
    taken = std::min(bytes.size(), kInputSize - input_.size());
    input_.insert(input_.end(), bytes.begin(), bytes.begin() + taken);
    if (taken < bytes.size()) cut_short_ = true;
  }
  if (taken > 0) runner_.loop().Post([this] { RunInput(); });
  return taken;
}

bool Console::HasInput() const {
  base::MutexLock lock(&mutex_);
  return !input_.empty();
}

void Console::RunInput() {
  if (!HasInput()) return;
  runner_.Serve(kRx, [this](Queue& queue, Chain chain) {
    return Receive(queue, std::move(chain));
  });
  bool room = false;
  {
    base::MutexLock lock(&mutex_);
    if (cut_short_ && input_.size() <= kInputSize / 2) {
      cut_short_ = false;
      room = true;
    }
  }
  if (room && options_.on_input_room) options_.on_input_room();
}

absl::StatusOr<DeviceRunner::Next> Console::Receive(Queue& queue, Chain chain) {
  if (chain.readable_size() != 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "input of a console in a readable buffer");
  }
  std::vector<uint8_t> bytes;
  {
    base::MutexLock lock(&mutex_);
    const size_t count =
        std::min<uint64_t>(input_.size(), chain.writable_size());
    bytes.assign(input_.begin(), input_.begin() + count);
    input_.erase(input_.begin(), input_.begin() + count);
  }
  if (bytes.empty()) {
    queue.Unpop(std::move(chain));
    return DeviceRunner::Next::kStop;
  }
  RETURN_IF_ERROR(chain.Write(0, bytes));
  rx_bytes_.Add(bytes.size());
  RETURN_IF_ERROR(
      queue.Push(std::move(chain), static_cast<uint32_t>(bytes.size())));
  return DeviceRunner::Next::kMore;
}

Console::Counters Console::counters() const {
  return {tx_bytes_.value(), rx_bytes_.value(), tx_waits_.value(),
          limiter_->throttled(), emergency_bytes_.value()};
}

}  // namespace cloister::devices::virtio
