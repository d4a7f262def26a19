// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/driver_fake_device.h"

#include <algorithm>
#include <cstdlib>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {
namespace {

constexpr std::chrono::seconds kPatience{10};

}  // namespace

void FakeInterrupts::SignalQueue(uint16_t queue) {
  base::MutexLock lock(&mutex_);
  ++queues_[queue];
  changed_.SignalAll();
}

void FakeInterrupts::SignalConfig() {
  base::MutexLock lock(&mutex_);
  ++config_;
  changed_.SignalAll();
}

void FakeInterrupts::NeedsReset(const absl::Status& reason) {
  base::MutexLock lock(&mutex_);
  if (!reason_.has_value()) reason_ = reason;
  changed_.SignalAll();
}

uint64_t FakeInterrupts::queue_signals(uint16_t queue) const {
  base::MutexLock lock(&mutex_);
  auto found = queues_.find(queue);
  return found == queues_.end() ? 0 : found->second;
}

uint64_t FakeInterrupts::config_signals() const {
  base::MutexLock lock(&mutex_);
  return config_;
}

std::optional<absl::Status> FakeInterrupts::reset_reason() const {
  base::MutexLock lock(&mutex_);
  return reason_;
}

template <typename Condition>
bool FakeInterrupts::WaitFor(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  base::MutexLock lock(&mutex_);
  while (!condition()) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return condition();
  }
  return true;
}

bool FakeInterrupts::WaitForQueue(uint16_t queue, uint64_t signals) {
  return WaitFor([&] {
           mutex_.AssertHeld();
           return queues_[queue] >= signals || reason_.has_value();
         }) &&
         queue_signals(queue) >= signals;
}

bool FakeInterrupts::WaitForConfig(uint64_t signals) {
  return WaitFor([&] {
    mutex_.AssertHeld();
    return config_ >= signals;
  });
}

bool FakeInterrupts::WaitForReset() {
  return WaitFor([&] {
    mutex_.AssertHeld();
    return reason_.has_value();
  });
}

FakeDriver::FakeDriver(VirtioDevice& device, FakeRam& ram, Options options)
    : device_(device),
      ram_(ram),
      options_(std::move(options)),
      interrupts_(std::make_unique<FakeInterrupts>()) {
  for (size_t i = 0; i < device.queue_sizes().size(); ++i) {
    auto kick = base::EventFd::Create();
    if (!kick.ok()) std::abort();
    lines_.emplace(i, Line{nullptr, *std::move(kick)});
  }
}

FakeDriver::~FakeDriver() {
  if (active_ && !Reset()) std::abort();  // it would touch what goes away
}

absl::Status FakeDriver::Activate() {
  old_interrupts_.push_back(
      std::exchange(interrupts_, std::make_unique<FakeInterrupts>()));
  Activation activation;
  activation.features = device_.features() & options_.features;
  activation.interrupts = interrupts_.get();
  for (auto& [index, line] : lines_) {
    line.kick.Drain();
    const std::vector<uint16_t>& wanted = options_.queues;
    if (!wanted.empty() &&
        std::find(wanted.begin(), wanted.end(), index) == wanted.end()) {
      continue;
    }
    DriverFake::Options options;
    options.size = std::min(device_.queue_sizes()[index], options_.queue_size);
    options.packed = options_.packed;
    options.indirect = options_.indirect;
    options.event_idx = options_.event_idx;
    line.driver = std::make_unique<DriverFake>(ram_, options);
    ASSIGN_OR_RETURN(std::unique_ptr<Queue> queue,
                     Queue::Create(line.driver->config(), ram_.view()));
    if (options_.wrap) queue = options_.wrap(index, std::move(queue));
    activation.queues.push_back({index, std::move(queue), &line.kick});
  }
  active_ = true;
  device_.FeaturesAccepted(activation.features);
  return device_.Activate(std::move(activation));
}

bool FakeDriver::Reset() {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> finished = done->get_future();
  device_.Reset([done] { done->set_value(); });
  active_ = false;
  return finished.wait_for(kPatience) == std::future_status::ready;
}

DriverFake& FakeDriver::queue(uint16_t index) {
  DriverFake* driver = lines_.at(index).driver.get();
  if (driver == nullptr) std::abort();
  return *driver;
}

void FakeDriver::Kick(uint16_t queue) { lines_.at(queue).kick.Signal(); }

absl::StatusOr<uint32_t> FakeDriver::Run(
    uint16_t queue, absl::Span<const DriverFake::Buffer> buffers,
    bool indirect) {
  DriverFake& driver = this->queue(queue);
  std::optional<uint16_t> id = driver.Offer(buffers, indirect);
  if (!id.has_value()) return absl::ResourceExhaustedError("no descriptors");
  if (driver.NeedsKick()) Kick(queue);
  ASSIGN_OR_RETURN(DriverFake::Used used, WaitUsed(queue));
  if (used.id != *id) {
    return absl::InternalError(
        absl::StrCat("used ", used.id, " instead of ", *id));
  }
  return used.written;
}

absl::StatusOr<DriverFake::Used> FakeDriver::WaitUsed(uint16_t queue) {
  DriverFake& driver = this->queue(queue);
  for (;;) {
    const uint64_t seen = interrupts_->queue_signals(queue);
    if (!driver.EnableInterrupts() &&
        !interrupts_->WaitForQueue(queue, seen + 1)) {
      std::optional<absl::Status> reason = interrupts_->reset_reason();
      return reason.value_or(absl::DeadlineExceededError(
          absl::StrCat("queue ", queue, ": no interrupt")));
    }
    std::optional<DriverFake::Used> used = driver.PopUsed();
    if (used.has_value()) return *used;
  }
}

uint64_t FakeDriver::ReadConfig(uint64_t offset, size_t size) {
  uint64_t value = 0;
  uint8_t bytes[sizeof(value)] = {};
  device_.ReadConfig(offset, absl::MakeSpan(bytes, size));
  return base::LoadLe<uint64_t>(bytes);
}

}  // namespace cloister::devices::virtio
