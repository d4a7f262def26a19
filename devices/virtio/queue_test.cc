// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue.h"

#include <signal.h>
#include <ucontext.h>

#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::kPageSize;
using memory::PageState;
using memory::ShareRefusal;
using ::testing::Eq;
using ::testing::Optional;
using Buffer = DriverFake::Buffer;

// A second processor that never misses anything: calls `look` after each
// instruction of `act`, by the processor's single steps. Under the thread
// sanitizer, whose runtime cannot be stepped through, only at the end.
class Stepper {
 public:
  static void Run(const std::function<void()>& act,
                  const std::function<void()>& look) {
#ifndef __SANITIZE_THREAD__
    look_ = &look;
    struct sigaction action = {};
    struct sigaction before;
    action.sa_sigaction = OnStep;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(SIGTRAP, &action, &before), 0);
    steps_ = 0;
    stepping_ = true;
    raise(SIGTRAP);
    act();
    stepping_ = false;
    ASSERT_EQ(sigaction(SIGTRAP, &before, nullptr), 0);
    EXPECT_GT(steps_, 100u);
#else
    act();
#endif
    look();
  }

 private:
  static void OnStep(int, siginfo_t*, void* context) {
    constexpr greg_t kTrapFlag = 0x100;
    greg_t& flags =
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
    if (!stepping_) {
      flags &= ~kTrapFlag;
      return;
    }
    flags |= kTrapFlag;
    steps_ = steps_ + 1;
    (*look_)();
  }

  // What a signal handler can reach.
  static inline const std::function<void()>* look_ = nullptr;
  static inline volatile bool stepping_ = false;
  static inline volatile uint64_t steps_ = 0;
};

struct Layout {
  bool packed;
  bool indirect;
  bool event_idx;
};

std::string LayoutName(const ::testing::TestParamInfo<Layout>& info) {
  return std::string(info.param.packed ? "Packed" : "Split") +
         (info.param.indirect ? "Indirect" : "") +
         (info.param.event_idx ? "EventIdx" : "");
}

class QueueTest : public ::testing::TestWithParam<Layout> {
 protected:
  void SetUp() override { Make(8); }

  void Make(uint16_t size) {
    DriverFake::Options options;
    options.size = size;
    options.packed = GetParam().packed;
    options.indirect = GetParam().indirect;
    options.event_idx = GetParam().event_idx;
    driver_ = std::make_unique<DriverFake>(ram_, options);
    ASSERT_OK_AND_ASSIGN(queue_, Queue::Create(driver_->config(), ram_.view()));
  }
  bool indirect() const { return GetParam().indirect; }

  Buffer Readable(absl::string_view bytes) {
    return {ram_.AllocString(bytes), static_cast<uint32_t>(bytes.size()),
            false};
  }
  Buffer Writable(uint32_t size) { return {ram_.Alloc(size), size, true}; }
  void Offer(const std::vector<Buffer>& buffers) {
    ASSERT_TRUE(driver_->Offer(buffers, indirect()).has_value());
  }
  Chain Pop() {
    auto chain = queue_->Pop();
    EXPECT_OK(chain);
    EXPECT_TRUE(chain->has_value());
    return **std::move(chain);
  }
  void ExpectPopFails(QueueError error) {
    auto chain = queue_->Pop();
    EXPECT_THAT(QueueErrorOf(chain.status()), Optional(Eq(error)))
        << chain.status();
  }

  FakeRam ram_;
  std::unique_ptr<DriverFake> driver_;
  std::unique_ptr<Queue> queue_;
};

TEST_P(QueueTest, CarriesARequestThereAndBack) {
  const std::vector<Buffer> buffers = {Readable("head"), Readable("tail"),
                                       Writable(3), Writable(4)};
  std::optional<uint16_t> id = driver_->Offer(buffers, indirect());
  ASSERT_TRUE(id.has_value());
  Chain chain = Pop();
  EXPECT_EQ(chain.readable_size(), 8u);
  EXPECT_EQ(chain.writable_size(), 7u);
  std::vector<uint8_t> read(4);
  ASSERT_OK(chain.Read(2, absl::MakeSpan(read)));
  EXPECT_EQ(std::string(read.begin(), read.end()), "adta");
  const std::vector<uint8_t> written = {'a', 'b', 'c', 'd', 'e'};
  ASSERT_OK(chain.Write(1, written));
  ASSERT_OK(chain.ReadBack(2, absl::MakeSpan(read)));
  EXPECT_EQ(std::string(read.begin(), read.end()), "bcde");
  ASSERT_OK(queue_->Push(std::move(chain), 6));
  std::optional<DriverFake::Used> used = driver_->PopUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, *id);
  EXPECT_EQ(used->written, 6u);
  EXPECT_EQ(ram_.String(buffers[2].address, 3), std::string("\0ab", 3));
  EXPECT_EQ(ram_.String(buffers[3].address, 4), std::string("cde\0", 4));
  EXPECT_FALSE(driver_->PopUsed().has_value());
}

TEST_P(QueueTest, RefusesAccessOutsideOfTheChain) {
  Offer({Readable("abc"), Writable(2)});
  Chain chain = Pop();
  std::vector<uint8_t> three(3);
  const auto out_of_range = base::StatusIs(absl::StatusCode::kOutOfRange);
  EXPECT_THAT(chain.Read(1, absl::MakeSpan(three)), out_of_range);
  EXPECT_THAT(chain.Read(UINT64_MAX, absl::MakeSpan(three)), out_of_range);
  EXPECT_THAT(chain.Write(0, three), out_of_range);
  EXPECT_THAT(chain.ReadableIovecs(2, 2), out_of_range);
  EXPECT_THAT(chain.WritableIovecs(UINT64_MAX, 1), out_of_range);
  EXPECT_OK(chain.Read(3, {}));
}

TEST_P(QueueTest, GivesIovecsOfAnyPart) {
  const std::vector<Buffer> buffers = {Readable("abc"), Readable("defg"),
                                       Writable(5)};
  Offer(buffers);
  Chain chain = Pop();
  ASSERT_OK_AND_ASSIGN(auto iovecs, chain.ReadableIovecs(2, 4));
  std::string seen;
  for (const struct iovec& piece : iovecs) {
    seen.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
  }
  EXPECT_EQ(seen, "cdef");
  ASSERT_OK_AND_ASSIGN(iovecs, chain.WritableIovecs(1, 3));
  ASSERT_EQ(iovecs.size(), 1u);
  memcpy(iovecs[0].iov_base, "xyz", 3);
  EXPECT_EQ(ram_.String(buffers[2].address, 5), std::string("\0xyz\0", 5));
  ASSERT_OK_AND_ASSIGN(iovecs, chain.WritableIovecs(5, 0));
  EXPECT_TRUE(iovecs.empty());
}

TEST_P(QueueTest, UnpopsOneRequest) {
  Offer({Readable("first")});
  Offer({Readable("second!")});
  queue_->Unpop(Pop());
  Chain first = Pop();
  EXPECT_EQ(first.readable_size(), 5u);
  EXPECT_EQ(Pop().readable_size(), 7u);
}

TEST_P(QueueTest, AnUnpoppedRequestIsNeitherLeasedNorNews) {
  Offer({Readable("first"), Writable(3)});
  queue_->Unpop(Pop());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(false));
  Offer({Readable("second")});
  EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(true));
  EXPECT_EQ(Pop().readable_size(), 5u);
  EXPECT_EQ(Pop().readable_size(), 6u);
}

TEST_P(QueueTest, PopsBuffersThatAreOnlyNames) {
  const GuestAddress hidden = ram_.AllocPages(2);
  ram_.SetState(hidden, 2 * kPageSize, PageState::kPrivate);
  const uint32_t length = static_cast<uint32_t>(2 * kPageSize);
  Offer({{hidden, length, true}, {GuestAddress(0), 8, true}});
  ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->PopUnleased());
  ASSERT_TRUE(chain.has_value());
  ASSERT_EQ(chain->unleased().size(), 2u);
  EXPECT_EQ(chain->unleased()[0].start(), hidden);
  EXPECT_EQ(chain->unleased()[0].size(), length);
  EXPECT_EQ(chain->unleased()[1].size(), 8u);
  const uint8_t byte = 1;
  EXPECT_FALSE(chain->Write(0, {&byte, 1}).ok());
  EXPECT_FALSE(chain->WritableIovecs(0, 1).ok());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  ASSERT_OK(queue_->Push(*std::move(chain), 0));
  EXPECT_TRUE(driver_->PopUsed().has_value());
  // Only for that one.
  Offer({{hidden, length, true}});
  ExpectPopFails(QueueError::kBufferNotShared);
}

TEST_P(QueueTest, ANameThatWrapsIsNone) {
  Offer({{GuestAddress(~uint64_t{0} - 4), 8, true}});
  const absl::Status status = queue_->PopUnleased().status();
  EXPECT_THAT(QueueErrorOf(status), Optional(Eq(QueueError::kBufferNotShared)));
  EXPECT_THAT(memory::ShareRefusalOf(status),
              Optional(Eq(ShareRefusal::kWrapping)));
}

TEST_P(QueueTest, ChecksAnUnpoppedRequestAnew) {
  const Buffer buffer = {ram_.AllocPages(1), 100, false};
  Offer({buffer});
  queue_->Unpop(Pop());
  ram_.SetState(buffer.address, 1, PageState::kPrivate);
  ExpectPopFails(QueueError::kBufferNotShared);
}

TEST_P(QueueTest, ReportsNoMoreThanWasThere) {
  Offer({Writable(4)});
  ASSERT_OK(queue_->Push(Pop(), 1000));
  EXPECT_EQ(driver_->PopUsed()->written, 4u);
}

TEST_P(QueueTest, LeasesBuffersUntilPushedAndRingsNever) {
  const Buffer buffer = {ram_.AllocPages(1), 100, false};
  Offer({buffer});
  Chain chain = Pop();
  // A lease ends before the driver learns of it, so another state is fine.
  ASSERT_OK(queue_->Push(std::move(chain), 0));
  ram_.SetState(buffer.address, 1, PageState::kPrivate);
  ram_.SetState(driver_->config().desc, 1, PageState::kPrivate);
  if (!GetParam().packed) {
    ExpectPopFails(QueueError::kRingNotShared);
  }
}

TEST_P(QueueTest, ReleasesWhatEndsBeforeAnOffset) {
  std::vector<Buffer> buffers;
  for (uint32_t size : {16, 100, 100}) {
    buffers.push_back({ram_.AllocPages(1), size, false});
  }
  ram_.Store<uint8_t>(buffers[1].address, 7);
  Offer(buffers);
  Chain chain = Pop();
  uint8_t byte = 1;
  const absl::Span<uint8_t> to(&byte, 1);
  for (auto [offset, leases] : {std::pair{0, 3}, {15, 3}, {16, 2}, {16, 2}}) {
    chain.ReleaseReadable(offset);
    EXPECT_EQ(ram_.LeasedBytes(), leases * uint64_t{4096}) << offset;
  }
  EXPECT_THAT(chain.Read(15, to),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  ASSERT_OK(chain.Read(16, to));
  EXPECT_EQ(byte, 7);
  // In the middle of one: it stays.
  chain.ReleaseReadable(117);
  EXPECT_THAT(chain.ReadableIovecs(115, 2),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  ASSERT_OK_AND_ASSIGN(std::vector<struct iovec> rest,
                       chain.ReadableIovecs(116, 100));
  EXPECT_EQ(rest.size(), 1u);
  EXPECT_EQ(ram_.LeasedBytes(), uint64_t{4096});
  EXPECT_OK(chain.Read(0, {}));
  chain.ReleaseReadable();
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_EQ(chain.readable_size(), 216u);
}

TEST_P(QueueTest, ReleasesTheReadablePartAlone) {
  const Buffer in = {ram_.AllocPages(1), 100, false};
  const Buffer out = {ram_.AllocPages(1), 100, true};
  Offer({in, out});
  Chain chain = Pop();
  EXPECT_EQ(ram_.LeasedBytes(), 2 * uint64_t{4096});
  chain.ReleaseReadable();
  EXPECT_EQ(ram_.LeasedBytes(), uint64_t{4096});
  uint8_t byte = 1;
  EXPECT_THAT(chain.Read(0, absl::MakeSpan(&byte, 1)),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(chain.ReadableIovecs(0, 1),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_OK(chain.Write(0, absl::MakeConstSpan(&byte, 1)));
  ASSERT_OK(queue_->Push(std::move(chain), 1));
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  EXPECT_TRUE(driver_->PopUsed().has_value());
}

TEST_P(QueueTest, InterruptsAsTheDriverAsks) {
  auto push = [&] {
    Offer({Writable(1)});
    ASSERT_OK(queue_->Push(Pop(), 1));
  };
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false));
  driver_->EnableInterrupts();
  push();
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(true));
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false));
  ASSERT_TRUE(driver_->PopUsed().has_value());
  driver_->DisableInterrupts();
  push();
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false));
  EXPECT_TRUE(driver_->EnableInterrupts());
  ASSERT_TRUE(driver_->PopUsed().has_value());
  if (!GetParam().event_idx) return;
  // Once three more are used, over the end of the ring several times.
  for (int lap = 0; lap < 20; ++lap) {
    driver_->EnableInterrupts(2);
    push();
    EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false)) << lap;
    push();
    EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false)) << lap;
    push();
    EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(true)) << lap;
    push();
    EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false)) << lap;
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(driver_->PopUsed().has_value());
  }
}

TEST_P(QueueTest, AsksForKicks) {
  EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(false));
  for (int lap = 0; lap < 20; ++lap) {
    Offer({Writable(1)});
    EXPECT_TRUE(driver_->NeedsKick()) << lap;
    EXPECT_FALSE(driver_->NeedsKick()) << lap;
    ASSERT_OK(queue_->Push(Pop(), 1));
    ASSERT_OK(queue_->DisableKicks());
    Offer({Writable(1)});
    EXPECT_FALSE(driver_->NeedsKick()) << lap;
    EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(true)) << lap;
    ASSERT_OK(queue_->Push(Pop(), 1));
    EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(false)) << lap;
    ASSERT_TRUE(driver_->PopUsed().has_value());
    ASSERT_TRUE(driver_->PopUsed().has_value());
  }
}

// A driver that polls takes the first of several as soon as it sees it, and the
// others must be there then. Five at a time in a ring of eight: over its end at
// every place.
TEST_P(QueueTest, ShowsSeveralRequestsTogether) {
  for (int lap = 0; lap < 8; ++lap) {
    std::vector<UsedChain> used;
    std::vector<uint16_t> ids;
    for (uint32_t i = 0; i < 5; ++i) {
      std::vector<Buffer> buffers = {Writable(8)};
      // Two entries of the ring, or one.
      if (i == 1 && lap % 2 == 1) buffers.push_back(Writable(8));
      std::optional<uint16_t> id = driver_->Offer(buffers, indirect());
      ASSERT_TRUE(id.has_value());
      ids.push_back(*id);
      used.push_back({Pop(), i});
    }
    bool seen = false;
    std::array<std::optional<DriverFake::Used>, 5> got;
    Stepper::Run([&] { ASSERT_OK(queue_->PushAll(absl::MakeSpan(used))); },
                 [&] {
                   if (seen || !driver_->HasUsed()) return;
                   seen = true;
                   for (auto& one : got) one = driver_->PopUsed();
                 });
    ASSERT_TRUE(seen);
    for (uint32_t i = 0; i < 5; ++i) {
      ASSERT_TRUE(got[i].has_value()) << "only " << i << " in lap " << lap;
      EXPECT_EQ(got[i]->id, ids[i]);
      EXPECT_EQ(got[i]->written, i);
    }
    EXPECT_FALSE(driver_->HasUsed());
    EXPECT_EQ(ram_.LeasedBytes(), 0u);
  }
}

TEST_P(QueueTest, PushesNoneAtAll) {
  Offer({Writable(8)});
  EXPECT_OK(queue_->PushAll({}));
  EXPECT_FALSE(driver_->HasUsed());
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false));
}

// The event may lie anywhere among those that are used in one step.
TEST_P(QueueTest, InterruptsForSeveralRequestsAtOnce) {
  for (int lap = 0; lap < 20; ++lap) {
    for (uint16_t after : {0, 1, 2, 3, 4}) {
      driver_->EnableInterrupts(after);
      const bool wanted = !GetParam().event_idx || after < 3;
      for (bool expected : {wanted, !wanted || !GetParam().event_idx}) {
        std::vector<UsedChain> used;
        for (int i = 0; i < 3; ++i) {
          Offer({Writable(8)});
          used.push_back({Pop(), 1});
        }
        ASSERT_OK(queue_->PushAll(absl::MakeSpan(used)));
        EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(expected))
            << "lap " << lap << ", after " << after;
        EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(false));
        for (int i = 0; i < 3; ++i) {
          ASSERT_TRUE(driver_->PopUsed().has_value());
        }
      }
    }
  }
}

TEST_P(QueueTest, UnpopsSeveralRequests) {
  for (int lap = 0; lap < 10; ++lap) {
    Offer({Readable("1")});
    Offer({Readable("22"), Writable(1)});
    Offer({Readable("333")});
    std::vector<Chain> chains;
    for (int i = 0; i < 3; ++i) chains.push_back(Pop());
    for (; !chains.empty(); chains.pop_back()) {
      queue_->Unpop(std::move(chains.back()));
    }
    EXPECT_EQ(ram_.LeasedBytes(), 0u);
    EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(false));
    chains.push_back(Pop());
    EXPECT_EQ(chains[0].readable_size(), 1u);
    EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(false));
    Offer({Readable("4444")});
    EXPECT_THAT(queue_->EnableKicks(), base::IsOkAndHolds(true));
    for (uint64_t size : {2, 3, 4}) {
      chains.push_back(Pop());
      EXPECT_EQ(chains.back().readable_size(), size);
    }
    for (Chain& chain : chains) ASSERT_OK(queue_->Push(std::move(chain), 0));
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(driver_->PopUsed().has_value());
  }
}

// Random requests through a queue, any number under way and used in any order,
// long enough for the free-running indices to wrap at 2^16.
TEST_P(QueueTest, CarriesRandomRequests) {
  Make(64);
  std::mt19937 random(1);
  auto below = [&random](uint32_t n) { return random() % n; };
  const GuestAddress pool = ram_.Alloc(64 * 1024);
  struct Request {
    uint64_t readable = 0;
    uint64_t writable = 0;
  };
  std::map<uint16_t, Request> offered;
  std::deque<Chain> popped;
  uint64_t finished = 0;
  while (finished < 70000) {
    for (uint32_t n = below(8); n > 0; --n) {
      std::vector<Buffer> buffers;
      Request request;
      const uint32_t readable = below(4);
      const uint32_t total = readable + below(4) + (readable == 0 ? 1 : 0);
      for (uint32_t i = 0; i < total; ++i) {
        const uint32_t length = 1 + below(3000);
        buffers.push_back({*pool.Plus(below(60000)), length, i >= readable});
        (i < readable ? request.readable : request.writable) += length;
      }
      auto id = driver_->Offer(buffers, indirect() && below(2) == 0);
      if (!id.has_value()) break;
      ASSERT_TRUE(offered.emplace(*id, request).second);
    }
    for (uint32_t n = below(8); n > 0; --n) {
      ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
      if (!chain.has_value()) break;
      if (below(16) == 0) {
        queue_->Unpop(*std::move(chain));
        continue;
      }
      popped.push_back(*std::move(chain));
    }
    while (!popped.empty() && below(8) != 0) {
      std::vector<UsedChain> used;
      for (size_t n = 1 + below(3); n > 0 && !popped.empty(); --n) {
        std::swap(popped[below(popped.size())], popped.front());
        const uint64_t size = popped.front().writable_size();
        used.push_back(
            {std::move(popped.front()), static_cast<uint32_t>(size)});
        popped.pop_front();
      }
      ASSERT_OK(queue_->PushAll(absl::MakeSpan(used)));
    }
    while (std::optional<DriverFake::Used> used = driver_->PopUsed()) {
      auto found = offered.find(used->id);
      ASSERT_NE(found, offered.end());
      EXPECT_EQ(used->written, found->second.writable);
      offered.erase(found);
      ++finished;
    }
  }
}

// With interrupts and kicks both suppressed where possible, neither side ever
// waits for the other to move first.
TEST_P(QueueTest, NeverLosesAWakeUp) {
  std::mt19937 random(2);
  bool kicked = true;
  bool interrupted = true;
  uint64_t finished = 0;
  for (int step = 0; step < 20000; ++step) {
    if (interrupted) {
      interrupted = false;
      driver_->DisableInterrupts();
      do {
        while (driver_->PopUsed().has_value()) ++finished;
      } while (driver_->EnableInterrupts());
      for (uint32_t n = 1 + random() % 8; n > 0; --n) {
        if (!driver_->Offer({Buffer{GuestAddress(0x100000), 8, true}})) break;
      }
      kicked = driver_->NeedsKick() || kicked;
    }
    ASSERT_TRUE(kicked || interrupted) << "both sides sleep at step " << step;
    if (!kicked) continue;
    kicked = false;
    ASSERT_OK(queue_->DisableKicks());
    for (bool more = true; more;) {
      for (;;) {
        ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
        if (!chain.has_value()) break;
        ASSERT_OK(queue_->Push(*std::move(chain), 0));
      }
      ASSERT_OK_AND_ASSIGN(bool wanted, queue_->NeedsInterrupt());
      interrupted = interrupted || wanted;
      ASSERT_OK_AND_ASSIGN(more, queue_->EnableKicks());
    }
  }
  EXPECT_GT(finished, 1000u);
}

INSTANTIATE_TEST_SUITE_P(
    All, QueueTest,
    ::testing::Values(Layout{false, false, false}, Layout{false, true, false},
                      Layout{false, false, true}, Layout{false, true, true},
                      Layout{true, false, false}, Layout{true, true, false},
                      Layout{true, false, true}, Layout{true, true, true}),
    LayoutName);

}  // namespace
}  // namespace cloister::devices::virtio
