// SPDX-License-Identifier: Apache-2.0
//
// Drivers that break the rules: every QueueError, for both layouts.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::kPageSize;
using memory::PageState;
using memory::ShareRefusal;
using memory::ShareRefusalOf;
using ::testing::Eq;
using ::testing::Optional;
using Buffer = DriverFake::Buffer;

constexpr uint16_t kNext = DriverFake::kNext;
constexpr uint16_t kWrite = DriverFake::kWrite;
constexpr uint16_t kIndirect = DriverFake::kIndirect;
constexpr uint16_t kSize = 8;

// A range that no device may touch, and what the view says about it.
struct Forbidden {
  uint64_t address;
  uint32_t length;
  ShareRefusal refusal;
};

class HostileTest : public ::testing::TestWithParam<bool> {
 protected:
  HostileTest() : area_(ram_.AllocPages(16)) {
    ram_.SetState(At(2 * kPageSize), 2 * kPageSize, PageState::kPrivate);
    ram_.SetState(At(6 * kPageSize), 2 * kPageSize, PageState::kAliased);
    ram_.SetState(At(10 * kPageSize), 2 * kPageSize, PageState::kNotRam);
    Make(/*indirect=*/true);
  }
  bool packed() const { return GetParam(); }
  GuestAddress At(uint64_t offset) const { return *area_.Plus(offset); }

  void Make(bool indirect) {
    DriverFake::Options options;
    options.size = kSize;
    options.packed = packed();
    options.indirect = indirect;
    driver_ = std::make_unique<DriverFake>(ram_, options);
    auto queue = Queue::Create(driver_->config(), ram_.view());
    EXPECT_OK(queue);
    queue_ = *std::move(queue);
  }

  // Every way in which memory is not the device's to use. Lengths are multiples
  // of 16, so that they do for tables too.
  std::vector<Forbidden> AllForbidden() const {
    const uint64_t area = area_.value();
    return {
        {area + 2 * kPageSize, 32, ShareRefusal::kPrivate},
        {area + 2 * kPageSize - 16, 32, ShareRefusal::kMixed},
        {area + 4 * kPageSize - 16, 32, ShareRefusal::kMixed},
        {area + 6 * kPageSize, 32, ShareRefusal::kAliased},
        {area + 6 * kPageSize - 16, 32, ShareRefusal::kAliased},
        {area + 10 * kPageSize, 32, ShareRefusal::kNotRam},
        {0, 32, ShareRefusal::kNotRam},
        {ram_.range().last().value() - 15, 32, ShareRefusal::kNotRam},
        {uint64_t{1} << 62, 32, ShareRefusal::kNotRam},
        {UINT64_MAX - 15, 32, ShareRefusal::kWrapping},
    };
  }

  void Descriptor(uint16_t index, uint64_t address, uint32_t length,
                  uint16_t flags, uint16_t next_or_id = 0) {
    if (packed()) flags |= driver_->AvailableFlags();
    driver_->WriteDescriptor(index, address, length, flags, next_or_id);
  }
  // One descriptor is all of a chain.
  void OfferOne(uint64_t address, uint32_t length, uint16_t flags) {
    Descriptor(0, address, length, flags);
    if (!packed()) driver_->OfferHead(0);
  }
  void OfferHead() {
    if (!packed()) driver_->OfferHead(0);
  }
  // An indirect table of these entries, as the whole chain.
  void OfferTable(
      const std::vector<std::pair<Buffer, std::pair<uint16_t, uint16_t>>>&
          entries) {
    const GuestAddress table = ram_.Alloc(entries.size() * 16, 16);
    for (size_t i = 0; i < entries.size(); ++i) {
      const auto& [buffer, link] = entries[i];
      driver_->WriteTableEntry(table, i, buffer.address.value(), buffer.length,
                               link.first, link.second);
    }
    OfferOne(table.value(), entries.size() * 16, kIndirect);
  }
  absl::Status PopError() {
    auto chain = queue_->Pop();
    EXPECT_FALSE(chain.ok());
    return chain.status();
  }
  void ExpectPop(QueueError error) {
    absl::Status status = PopError();
    EXPECT_THAT(QueueErrorOf(status), Optional(Eq(error))) << status;
    // Leaves no lease: the pages can be taken at once.
    EXPECT_EQ(static_cast<int>(status.code()),
              static_cast<int>(absl::StatusCode::kInvalidArgument));
  }
  void ExpectRefused(QueueError error, ShareRefusal refusal) {
    absl::Status status = PopError();
    EXPECT_THAT(QueueErrorOf(status), Optional(Eq(error))) << status;
    EXPECT_THAT(ShareRefusalOf(status), Optional(Eq(refusal))) << status;
  }

  FakeRam ram_;
  const GuestAddress area_;
  std::unique_ptr<DriverFake> driver_;
  std::unique_ptr<Queue> queue_;
};

TEST_P(HostileTest, RefusesSizes) {
  QueueConfig config = driver_->config();
  std::vector<uint16_t> sizes = {0, 32769, 65535};
  if (!packed()) sizes.insert(sizes.end(), {3, 6, 255});
  for (uint16_t size : sizes) {
    config.size = size;
    EXPECT_THAT(QueueErrorOf(Queue::Create(config, ram_.view()).status()),
                Optional(Eq(QueueError::kBadSize)))
        << size;
  }
  config.size = 1;
  EXPECT_OK(Queue::Create(config, ram_.view()));
}

TEST_P(HostileTest, RefusesMisalignedRings) {
  const QueueConfig good = driver_->config();
  QueueConfig desc = good;
  desc.desc = *good.desc.Plus(8);
  QueueConfig driver = good;
  driver.driver = *good.driver.Plus(1);
  QueueConfig device = good;
  device.device = *good.device.Plus(2);
  for (const QueueConfig& config : {desc, driver, device}) {
    EXPECT_THAT(QueueErrorOf(Queue::Create(config, ram_.view()).status()),
                Optional(Eq(QueueError::kMisalignedRing)));
  }
}

TEST_P(HostileTest, RefusesRingsThatAreNotShared) {
  auto expect = [&](const QueueConfig& config, ShareRefusal refusal) {
    absl::Status status = Queue::Create(config, ram_.view()).status();
    EXPECT_THAT(QueueErrorOf(status), Optional(Eq(QueueError::kRingNotShared)));
    EXPECT_THAT(ShareRefusalOf(status), Optional(Eq(refusal))) << status;
  };
  for (const Forbidden& forbidden : AllForbidden()) {
    SCOPED_TRACE(forbidden.address);
    QueueConfig desc = driver_->config();
    desc.desc = GuestAddress(forbidden.address);
    expect(desc, forbidden.refusal);
    // Event suppression areas are of 4 bytes: they straddle nothing.
    const bool straddles = forbidden.address % kPageSize != 0;
    if (packed() && straddles) continue;
    QueueConfig driver = driver_->config();
    driver.driver = GuestAddress(forbidden.address);
    expect(driver, forbidden.refusal);
    QueueConfig device = driver_->config();
    device.device = GuestAddress(forbidden.address);
    expect(device, forbidden.refusal);
  }
}

TEST_P(HostileTest, NoticesRingsThatAreTakenAway) {
  const GuestAddress desc = ram_.AllocPages(1);
  const GuestAddress driver = ram_.AllocPages(1);
  const GuestAddress device = ram_.AllocPages(1);
  QueueConfig config = driver_->config();
  config.desc = desc;
  config.driver = driver;
  config.device = device;
  ASSERT_OK_AND_ASSIGN(queue_, Queue::Create(config, ram_.view()));
  const auto lost = [](const absl::Status& status) {
    return QueueErrorOf(status) == QueueError::kRingNotShared &&
           ShareRefusalOf(status) == ShareRefusal::kPrivate;
  };
  ram_.SetState(packed() ? desc : driver, 1, PageState::kPrivate);
  EXPECT_TRUE(lost(queue_->Pop().status()));
  EXPECT_TRUE(lost(queue_->EnableKicks().status()));
  ram_.SetState(packed() ? desc : driver, 1, PageState::kShared);
  ram_.SetState(device, 1, PageState::kPrivate);
  EXPECT_TRUE(lost(queue_->DisableKicks()));
  EXPECT_TRUE(lost(queue_->EnableKicks().status()));
  ram_.SetState(device, 1, PageState::kShared);
  EXPECT_OK(queue_->EnableKicks());
}

TEST_P(HostileTest, NoticesRingsThatAreTakenAwayWhilePushing) {
  const Buffer buffer = {area_, 16, true};
  driver_->Offer({buffer});
  driver_->Offer({buffer});
  ASSERT_OK_AND_ASSIGN(std::optional<Chain> first, queue_->Pop());
  ASSERT_OK_AND_ASSIGN(std::optional<Chain> second, queue_->Pop());
  ASSERT_OK(queue_->Push(*std::move(first), 0));
  ram_.SetState(driver_->config().desc, 4096, PageState::kPrivate);
  EXPECT_THAT(QueueErrorOf(queue_->NeedsInterrupt().status()),
              Optional(Eq(QueueError::kRingNotShared)));
  EXPECT_THAT(QueueErrorOf(queue_->Push(*std::move(second), 0)),
              Optional(Eq(QueueError::kRingNotShared)));
}

TEST_P(HostileTest, RefusesBuffersThatAreNotShared) {
  for (const Forbidden& forbidden : AllForbidden()) {
    for (uint16_t flags : {uint16_t{0}, kWrite}) {
      SCOPED_TRACE(forbidden.address);
      Make(/*indirect=*/true);
      OfferOne(forbidden.address, forbidden.length, flags);
      ExpectRefused(QueueError::kBufferNotShared, forbidden.refusal);
    }
  }
}

TEST_P(HostileTest, RefusesTablesThatAreNotShared) {
  for (const Forbidden& forbidden : AllForbidden()) {
    SCOPED_TRACE(forbidden.address);
    Make(/*indirect=*/true);
    OfferOne(forbidden.address, forbidden.length, kIndirect);
    ExpectRefused(QueueError::kTableNotShared, forbidden.refusal);
  }
}

TEST_P(HostileTest, RefusesBuffersOfATableThatAreNotShared) {
  for (const Forbidden& forbidden : AllForbidden()) {
    SCOPED_TRACE(forbidden.address);
    Make(/*indirect=*/true);
    OfferTable(
        {{{GuestAddress(forbidden.address), forbidden.length, false}, {0, 0}}});
    ExpectRefused(QueueError::kBufferNotShared, forbidden.refusal);
  }
}

TEST_P(HostileTest, RefusesDescriptorsOfNoBytes) {
  OfferOne(area_.value(), 0, kWrite);
  ExpectPop(QueueError::kEmptyBuffer);
  Make(/*indirect=*/true);
  OfferTable({{{area_, 0, false}, {0, 0}}});
  ExpectPop(QueueError::kEmptyBuffer);
}

TEST_P(HostileTest, RefusesReadableAfterWritable) {
  Descriptor(0, area_.value(), 8, kWrite | kNext, 1);
  Descriptor(1, area_.value(), 8, 0, 0);
  OfferHead();
  ExpectPop(QueueError::kBadOrder);
  Make(/*indirect=*/true);
  OfferTable(
      {{{area_, 8, true}, {kWrite | kNext, 1}}, {{area_, 8, false}, {}}});
  ExpectPop(QueueError::kBadOrder);
}

TEST_P(HostileTest, RefusesIndirectWithoutNegotiation) {
  Make(/*indirect=*/false);
  OfferOne(area_.value(), 16, kIndirect);
  ExpectPop(QueueError::kBadIndirect);
}

TEST_P(HostileTest, RefusesTablesOfOddSizes) {
  for (uint32_t length :
       {0u, 8u, 15u, 17u, (Queue::kMaxIndirect + 1) * 16u, 0xfffffff0u}) {
    Make(/*indirect=*/true);
    OfferOne(area_.value(), length, kIndirect);
    ExpectPop(QueueError::kBadIndirect);
  }
}

TEST_P(HostileTest, RefusesTablesThatGoOn) {
  OfferOne(area_.value(), 16, kIndirect | kNext);
  ExpectPop(QueueError::kBadIndirect);
}

TEST_P(HostileTest, RefusesNestedTables) {
  OfferTable({{{area_, 16, false}, {kIndirect, 0}}});
  ExpectPop(QueueError::kBadIndirect);
}

TEST_P(HostileTest, TakesATableBehindOrdinaryBuffers) {
  const GuestAddress table = ram_.Alloc(16, 16);
  driver_->WriteTableEntry(table, 0, area_.value(), 5, kWrite, 0);
  Descriptor(0, area_.value(), 8, kNext, 1);
  Descriptor(1, table.value(), 16, kIndirect, 0);
  OfferHead();
  ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable_size(), 8u);
  EXPECT_EQ(chain->writable_size(), 5u);
}

TEST_P(HostileTest, RefusesChainsOfFourGigabytes) {
  // Four GiB of shared memory need not exist: the total is judged first.
  Descriptor(0, area_.value(), 16, kNext, 1);
  Descriptor(1, area_.value(), UINT32_MAX - 15, 0, 0);
  OfferHead();
  ExpectPop(QueueError::kTooLong);
}

TEST_P(HostileTest, BoundsChains) {
  for (uint16_t i = 0; i < kSize; ++i) {
    Descriptor(i, area_.value(), 8, kNext, (i + 1) % kSize);
  }
  OfferHead();
  ExpectPop(QueueError::kLoop);
}

TEST_P(HostileTest, LeavesNoLeaseBehindAnError) {
  const GuestAddress page = ram_.AllocPages(1);
  Descriptor(0, page.value(), 8, kNext, 1);
  Descriptor(1, page.value(), 0, 0, 0);
  OfferHead();
  ExpectPop(QueueError::kEmptyBuffer);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(HostileTest, UnmapsEveryByteOfAChainWhenItGoes) {
  driver_->Offer({Buffer{area_, 4096, false}, Buffer{area_, 100, true}});
  {
    ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
    EXPECT_EQ(ram_.LeasedBytes(), kPageSize);
  }
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, HostileTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

// --- what only one layout has ---

class SplitHostileTest : public HostileTest {};
INSTANTIATE_TEST_SUITE_P(Split, SplitHostileTest, ::testing::Values(false));

TEST_P(SplitHostileTest, RefusesAvailIndicesThatJump) {
  driver_->WriteAvailIndex(kSize + 1);
  ExpectPop(QueueError::kAvailJump);
  EXPECT_THAT(QueueErrorOf(queue_->EnableKicks().status()),
              Optional(Eq(QueueError::kAvailJump)));
  driver_->WriteAvailIndex(0xffff);  // backwards
  ExpectPop(QueueError::kAvailJump);
}

TEST_P(SplitHostileTest, CountsRequestsUnderWayAgainstTheRing) {
  Descriptor(0, area_.value(), 8, 0, 0);
  for (int i = 0; i < kSize; ++i) driver_->OfferHead(0);
  std::vector<Chain> chains;
  for (int i = 0; i < kSize; ++i) {
    ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
    ASSERT_TRUE(chain.has_value());
    chains.push_back(*std::move(chain));
  }
  driver_->OfferHead(0);
  ExpectPop(QueueError::kAvailJump);
}

TEST_P(SplitHostileTest, RefusesIndicesBeyondTheTable) {
  driver_->OfferHead(kSize);
  ExpectPop(QueueError::kBadIndex);
  Make(/*indirect=*/true);
  Descriptor(0, area_.value(), 8, kNext, 0xffff);
  driver_->OfferHead(0);
  ExpectPop(QueueError::kBadIndex);
  Make(/*indirect=*/true);
  OfferTable({{{area_, 8, false}, {kNext, 1}}});
  ExpectPop(QueueError::kBadIndex);
}

TEST_P(SplitHostileTest, BoundsChainsWithinATable) {
  OfferTable(
      {{{area_, 8, false}, {kNext, 1}}, {{area_, 8, false}, {kNext, 0}}});
  ExpectPop(QueueError::kLoop);
}

class PackedHostileTest : public HostileTest {};
TEST_P(HostileTest, ADescriptorToInterruptAtMeansNothingWithoutTheFeature) {
  if (!packed()) return;  // split rings have no such flags
  ram_.Store<uint32_t>(driver_->config().driver, 2u << 16 | 5);
  driver_->Offer({{At(0), 8, true}});
  auto chain = queue_->Pop();
  ASSERT_OK(chain);
  ASSERT_TRUE(chain->has_value());
  ASSERT_OK(queue_->Push(**std::move(chain), 0));
  EXPECT_THAT(queue_->NeedsInterrupt(), base::IsOkAndHolds(true));
}

INSTANTIATE_TEST_SUITE_P(Packed, PackedHostileTest, ::testing::Values(true));

TEST_P(PackedHostileTest, RefusesBufferIdsBeyondTheRing) {
  Descriptor(0, area_.value(), 8, 0, kSize);
  ExpectPop(QueueError::kBadIndex);
}

TEST_P(PackedHostileTest, CountsEntriesUnderWayAgainstTheRing) {
  for (uint16_t i = 0; i < kSize; ++i) {
    driver_->Offer({Buffer{area_, 8, false}});
  }
  std::vector<Chain> chains;
  for (int i = 0; i < kSize; ++i) {
    ASSERT_OK_AND_ASSIGN(std::optional<Chain> chain, queue_->Pop());
    ASSERT_TRUE(chain.has_value());
    chains.push_back(*std::move(chain));
  }
  Descriptor(0, area_.value(), 8, 0, 0);
  ExpectPop(QueueError::kAvailJump);
}

// A buffer may lie in two regions of memory that touch: two pieces of it.
TEST(QueueRegionsTest, ABufferMayCrossRegions) {
  constexpr uint64_t kStart = 0x100000;
  std::vector<memory::MemoryRegion> regions;
  for (uint64_t start : {kStart, kStart + kPageSize}) {
    auto mapping = memory::HostMapping::CreateMemfd("half", kPageSize, {});
    ASSERT_OK(mapping);
    auto region =
        memory::MemoryRegion::Create(GuestAddress(start), *std::move(mapping));
    ASSERT_OK(region);
    regions.push_back(*std::move(region));
  }
  ASSERT_OK_AND_ASSIGN(auto memory,
                       memory::GuestMemory::Create(std::move(regions)));
  memory::PageStateMap states;
  ASSERT_OK(states.Set(*memory::GuestRange::CreatePageAligned(
                           GuestAddress(kStart), 2 * kPageSize),
                       PageState::kShared));
  ASSERT_OK_AND_ASSIGN(auto view, memory::SharedView::Create(&memory, &states));
  QueueConfig config;
  config.size = 1;
  config.desc = GuestAddress(kStart);
  config.driver = GuestAddress(kStart + 0x40);
  config.device = GuestAddress(kStart + 0x80);
  ASSERT_OK_AND_ASSIGN(auto queue, Queue::Create(config, *view));
  const auto store = [&](uint64_t offset, uint16_t value) {
    ASSERT_OK(memory.Store<uint16_t>(GuestAddress(kStart + offset), value,
                                     std::memory_order_relaxed));
  };
  // 200 bytes, half of them before the border.
  store(0, static_cast<uint16_t>(kPageSize - 100));
  store(2, kStart >> 16);
  store(8, 200);
  store(12, kWrite);
  store(0x42, 1);
  auto chain = queue->Pop();
  ASSERT_OK(chain);
  ASSERT_TRUE(chain->has_value());
  struct Case {
    uint64_t offset, size;
    std::vector<size_t> pieces;
  };
  for (const Case& each :
       {Case{0, 200, {100, 100}}, Case{0, 100, {100}}, Case{50, 40, {40}},
        Case{100, 100, {100}}, Case{150, 50, {50}}, Case{99, 2, {1, 1}}}) {
    auto iovecs = (*chain)->WritableIovecs(each.offset, each.size);
    ASSERT_OK(iovecs);
    std::vector<size_t> sizes;
    for (const struct iovec& piece : *iovecs) sizes.push_back(piece.iov_len);
    EXPECT_EQ(sizes, each.pieces) << each.offset << " " << each.size;
  }
  EXPECT_FALSE((*chain)->WritableIovecs(101, 100).ok());
  EXPECT_FALSE((*chain)->WritableIovecs(201, 0).ok());
}

}  // namespace
}  // namespace cloister::devices::virtio
