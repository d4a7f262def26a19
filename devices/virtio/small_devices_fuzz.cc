// SPDX-License-Identifier: Apache-2.0
//
// A hostile driver against the entropy device, the console and the balloon:
// the first byte says which.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cloister/devices/virtio/balloon.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/devices/virtio/hostile_driver.h"
#include "cloister/devices/virtio/rng.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestRange;
using memory::kPageSize;

std::pair<std::unique_ptr<Worker>, base::EventLoop*> NewWorker() {
  auto worker = Worker::Create("fuzz");
  FuzzRequire(worker.ok(), "worker");
  base::EventLoop* loop = &(*worker)->loop();
  return {*std::move(worker), loop};
}

void FuzzRng(FuzzInput& input) {
  auto [worker, loop] = NewWorker();
  Rng::Options options;
  options.source = [](absl::Span<uint8_t> to) {
    std::fill(to.begin(), to.end(), 4);
    return absl::OkStatus();
  };
  auto rng = Rng::Create(std::move(options), std::move(worker));
  FuzzRequire(rng.ok(), "rng");
  FakeRam ram;
  HostileDriver driver(**rng, *loop, ram, input,
                       {[&](uint16_t) { return input.Bytes(input.UpTo(1)); },
                        [&] {
                          RateLimiterUpdate update;
                          update.bandwidth = {input.UpTo(1) * 100u, 0,
                                              std::chrono::milliseconds(1)};
                          (void)(*rng)->UpdateLimit(update);
                        }});
  driver.Run();
}

class StingySink : public SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    FuzzRequire(!bytes.empty(), "nothing to write");
    return std::min(bytes.size(), room_.load());
  }
  std::atomic<size_t> room_{SIZE_MAX};
};

void FuzzConsole(FuzzInput& input) {
  auto [worker, loop] = NewWorker();
  StingySink sink;
  auto console = Console::Create({}, sink, std::move(worker));
  FuzzRequire(console.ok(), "console");
  FakeRam ram;
  HostileDriver driver(
      **console, *loop, ram, input,
      {[&](uint16_t queue) {
         return queue == 0 ? std::vector<uint8_t>()
                           : std::vector<uint8_t>(input.UpTo(3000) + 1, 'c');
       },
       [&] {
         if (input.Flip()) {
           (*console)->Enqueue(std::vector<uint8_t>(input.UpTo(5000), 'i'));
         } else {
           sink.room_ = input.Flip() ? SIZE_MAX : input.UpTo(100);
           (*console)->OnSinkWritable();
         }
       }});
  driver.Run();
}

// Pages below 1 MiB are nobody's, for example.
class PickyPages : public BalloonPages {
 public:
  absl::StatusOr<uint64_t> GiveUp(const GuestRange& range) override {
    return Judge(range);
  }
  absl::Status TakeBack(const GuestRange& range) override {
    return Judge(range).status();
  }
  absl::Status TakeBackAll() override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> Discard(const GuestRange& range) override {
    return Judge(range);
  }

 private:
  static absl::StatusOr<uint64_t> Judge(const GuestRange& range) {
    FuzzRequire(range.IsPageAligned(), "parts of pages");
    if (range.start().value() < 0x100000) {
      return absl::InvalidArgumentError("low");
    }
    if (range.size() == 3 * kPageSize) return absl::InternalError("three");
    return range.size();
  }
};

std::vector<uint8_t> BalloonRequest(FuzzInput& input, uint16_t queue) {
  if (queue > 2) return {};
  std::vector<uint8_t> bytes;
  uint32_t frame = input.Take<uint32_t>();
  for (uint32_t count = input.UpTo(40); count > 0; --count) {
    for (int i = 0; i < 4; ++i) {
      bytes.push_back(static_cast<uint8_t>(frame >> (8 * i)));
    }
    frame += input.UpTo(3);
  }
  bytes.resize(bytes.size() + (input.UpTo(15) == 0 ? 1 : 0));
  return bytes;
}

void FuzzBalloon(FuzzInput& input) {
  auto [worker, loop] = NewWorker();
  PickyPages pages;
  Balloon::Options options;
  options.max = uint64_t{1} << 30;
  options.reporting = true;
  options.deflate_on_oom = true;
  auto balloon = Balloon::Create(options, pages, std::move(worker));
  FuzzRequire(balloon.ok(), "balloon");
  FakeRam ram;
  HostileDriver driver(
      **balloon, *loop, ram, input,
      {[&](uint16_t queue) { return BalloonRequest(input, queue); },
       [&] {
         (void)(*balloon)->SetTarget(input.Take<uint16_t>() * kPageSize);
         (void)(*balloon)->SetStatsInterval(
             std::chrono::seconds(input.UpTo(1)));
         (void)(*balloon)->stats();
       }});
  driver.Run();
}

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cloister::devices::virtio::FuzzInput input(data, size);
  switch (input.UpTo(2)) {
    case 0:
      cloister::devices::virtio::FuzzRng(input);
      break;
    case 1:
      cloister::devices::virtio::FuzzConsole(input);
      break;
    default:
      cloister::devices::virtio::FuzzBalloon(input);
  }
  return 0;
}
