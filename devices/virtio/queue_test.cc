// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue.h"

#include <deque>
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
  EXPECT_THAT(QueueErrorOf(queue_->PopUnleased().status()),
              Optional(Eq(QueueError::kBufferNotShared)));
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
      std::swap(popped[below(popped.size())], popped.front());
      const uint64_t size = popped.front().writable_size();
      ASSERT_OK(queue_->Push(std::move(popped.front()), size));
      popped.pop_front();
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
