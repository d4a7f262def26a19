// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::devices::virtio {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {64};

absl::Status HostRandom(absl::Span<uint8_t> to) {
  while (!to.empty()) {
    ssize_t got = base::RetryOnEintr(
        [&] { return ::getrandom(to.data(), to.size(), 0); });
    if (got < 0) return base::ErrnoStatus(errno, "getrandom");
    to.remove_prefix(got);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rng>> Rng::Create(
    Options options, std::unique_ptr<Worker> worker) {
  if (!options.source) options.source = HostRandom;
  const RateLimiterConfig limit = options.limit;
  std::unique_ptr<Rng> rng(new Rng(std::move(options), std::move(worker)));
  ASSIGN_OR_RETURN(rng->limiter_,
                   FlowLimiter::Create(rng->runner_.loop(), limit,
                                       [rng = rng.get()] { rng->OnKick(0); }));
  return rng;
}

absl::Span<const uint16_t> Rng::queue_sizes() const { return kQueueSizes; }

void Rng::ReadConfig(uint64_t, absl::Span<uint8_t> data) {
  std::fill(data.begin(), data.end(), 0);
}

void Rng::OnKick(uint16_t queue) {
  runner_.Serve(queue, [this](Queue& queue, Chain chain) {
    return Fill(queue, std::move(chain));
  });
}

absl::StatusOr<DeviceRunner::Next> Rng::Fill(Queue& queue, Chain chain) {
  if (chain.readable_size() != 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "an entropy request with readable bytes");
  }
  const uint32_t size = static_cast<uint32_t>(
      std::min<uint64_t>(chain.writable_size(), kMaxBytes));
  if (!limiter_->Take(size)) {
    queue.Unpop(std::move(chain));
    return DeviceRunner::Next::kStop;
  }
  requests_.Add();
  std::array<uint8_t, 4096> buffer;
  uint32_t done = 0;
  while (done < size) {
    auto part = absl::MakeSpan(buffer).subspan(
        0, std::min<size_t>(size - done, buffer.size()));
    if (!options_.source(part).ok()) {
      source_errors_.Add();
      break;
    }
    RETURN_IF_ERROR(chain.Write(done, part));
    done += part.size();
  }
  bytes_.Add(done);
  RETURN_IF_ERROR(queue.Push(std::move(chain), done));
  return DeviceRunner::Next::kMore;
}

Rng::Counters Rng::counters() const {
  return {requests_.value(), bytes_.value(), source_errors_.value(),
          limiter_->throttled()};
}

}  // namespace cloister::devices::virtio
