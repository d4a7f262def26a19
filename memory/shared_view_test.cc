// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/shared_view.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {

class SharedViewTestPeer {
 public:
  static LeaseTable& Leases(SharedView* view) { return view->leases(); }
};

namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

static_assert(!std::is_copy_constructible_v<Lease>);
static_assert(std::is_nothrow_move_constructible_v<Lease>);
static_assert(std::is_nothrow_move_assignable_v<Lease>);

constexpr LeaseTable::Deadline kNow = LeaseTable::Deadline::min();
constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

MemoryRegion Region(uint64_t start, uint64_t size) {
  auto mapping = HostMapping::CreateMemfd("ram", size, {});
  EXPECT_OK(mapping);
  auto region = MemoryRegion::Create(GuestAddress(start), *std::move(mapping));
  EXPECT_OK(region);
  return *std::move(region);
}

// Two regions that touch, [0x10000, 0x20000) and [0x20000, 0x30000), and one
// that the map does not know, [0x40000, 0x42000).
//
//   0x10000 shared  0x14000 private  0x18000 aliased  0x19000 not RAM
//   0x1a000 shared  0x28000 private  0x30000 (no memory)
class SharedViewTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<MemoryRegion> regions;
    regions.push_back(Region(0x10000, 0x10000));
    regions.push_back(Region(0x20000, 0x10000));
    regions.push_back(Region(0x40000, 0x2000));
    ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                         GuestMemory::Create(std::move(regions)));
    memory_ = std::make_unique<GuestMemory>(std::move(memory));
    ASSERT_OK(states_.Set(Range(0x10000, 0x4000), PageState::kShared));
    ASSERT_OK(states_.Set(Range(0x14000, 0x4000), PageState::kPrivate));
    ASSERT_OK(states_.Set(Range(0x18000, 0x1000), PageState::kAliased));
    ASSERT_OK(states_.Set(Range(0x1a000, 0xe000), PageState::kShared));
    ASSERT_OK(states_.Set(Range(0x28000, 0x8000), PageState::kPrivate));
    ASSERT_OK_AND_ASSIGN(view_, SharedView::Create(memory_.get(), &states_));
  }

  Lease Acquire(uint64_t start, uint64_t size) {
    auto lease = view_->Acquire(GuestAddress(start), size);
    EXPECT_OK(lease);
    return *std::move(lease);
  }
  // Whether [start, start + size) is refused for that reason, which is counted
  // and leaves no lease.
  void ExpectRefused(uint64_t start, uint64_t size, ShareRefusal refusal,
                     absl::StatusCode code) {
    SCOPED_TRACE(ShareRefusalName(refusal));
    const uint64_t before = view_->refusals(refusal);
    auto lease = view_->Acquire(GuestAddress(start), size);
    EXPECT_THAT(lease,
                base::StatusIs(
                    code, HasSubstr(std::string(ShareRefusalName(refusal)))));
    EXPECT_THAT(ShareRefusalOf(lease.status()), Optional(Eq(refusal)));
    EXPECT_EQ(view_->refusals(refusal), before + 1);
    EXPECT_FALSE(AnyLeased());
  }
  void ExpectInvalid(uint64_t start, uint64_t size, ShareRefusal refusal) {
    ExpectRefused(start, size, refusal, absl::StatusCode::kInvalidArgument);
  }
  void ExpectFailed(uint64_t start, uint64_t size, ShareRefusal refusal) {
    ExpectRefused(start, size, refusal, absl::StatusCode::kFailedPrecondition);
  }

  LeaseTable& leases() { return SharedViewTestPeer::Leases(view_.get()); }
  bool AnyLeased() { return leases().AnyLeased(Range(0, 0x80000)); }

  std::unique_ptr<GuestMemory> memory_;
  PageStateMap states_;
  std::unique_ptr<SharedView> view_;
};

TEST_F(SharedViewTest, SaysHowMuchIsLeased) {
  EXPECT_EQ(view_->LeasedBytes(), 0u);
  {
    Lease one = Acquire(0x10fff, 2);
    Lease other = Acquire(0x11000, 0x100);
    Lease far = Acquire(0x20000, 0x1000);
    EXPECT_EQ(view_->LeasedBytes(), 0x3000u);
    EXPECT_EQ(view_->LeasedSum(), 0x1102u);
    Lease moved = std::move(one);
    one = Acquire(0x11000, 0x100);
    EXPECT_EQ(view_->LeasedSum(), 0x1202u) << "the same bytes once more";
    one = std::move(far);
    EXPECT_EQ(view_->LeasedSum(), 0x1102u);
  }
  EXPECT_EQ(view_->LeasedBytes(), 0u);
  EXPECT_EQ(view_->LeasedSum(), 0u);
  EXPECT_FALSE(view_->Acquire(GuestAddress(0x13000), 0x2000).ok());
  EXPECT_EQ(view_->LeasedSum(), 0u);
}

TEST_F(SharedViewTest, RefusesEmptyAndWrappingRanges) {
  ExpectInvalid(0x10000, 0, ShareRefusal::kEmpty);
  ExpectInvalid(UINT64_MAX, 0, ShareRefusal::kEmpty);
  ExpectInvalid(UINT64_MAX, 2, ShareRefusal::kWrapping);
  ExpectInvalid(0x10000, UINT64_MAX, ShareRefusal::kWrapping);
  ExpectInvalid(0x10000, uint64_t{0} - 0xffff, ShareRefusal::kWrapping);
}

TEST_F(SharedViewTest, RefusesWhatIsNotRam) {
  ExpectInvalid(0x19000, 1, ShareRefusal::kNotRam);  // the map says no
  ExpectInvalid(0x41fff, 1, ShareRefusal::kNotRam);  // it never heard of it
  ExpectInvalid(0xffff, 2, ShareRefusal::kNotRam);   // one byte outside
  ExpectInvalid(0x2ffff, 2, ShareRefusal::kNotRam);  // and at the end
  ExpectInvalid(0x18000, 0x2000, ShareRefusal::kNotRam);  // aliased and not RAM
  ExpectInvalid(0x10000, 0x18000, ShareRefusal::kNotRam);  // some of all
  ExpectInvalid(0x10000, uint64_t{1} << 52, ShareRefusal::kNotRam);
  ExpectInvalid(uint64_t{1} << 52, 0x1000, ShareRefusal::kNotRam);
  ExpectInvalid(0, UINT64_MAX, ShareRefusal::kNotRam);
  ExpectInvalid(UINT64_MAX, 1, ShareRefusal::kNotRam);
  // Shared by the map, but no memory is there.
  ASSERT_OK(states_.Set(Range(0x30000, 0x1000), PageState::kShared));
  ExpectInvalid(0x30000, 8, ShareRefusal::kNotRam);
  ExpectInvalid(0x28000, 0x8001, ShareRefusal::kNotRam);
}

TEST_F(SharedViewTest, RefusesAliasedPages) {
  ExpectInvalid(0x18000, 0x1000, ShareRefusal::kAliased);
  ExpectInvalid(0x18fff, 1, ShareRefusal::kAliased);
  ExpectInvalid(0x17fff, 2, ShareRefusal::kAliased);  // private and aliased
  ExpectInvalid(0x10000, 0x9000, ShareRefusal::kAliased);  // all three
}

TEST_F(SharedViewTest, RefusesPrivateAndHalfPrivateRanges) {
  ExpectFailed(0x14000, 1, ShareRefusal::kPrivate);
  ExpectFailed(0x14000, 0x4000, ShareRefusal::kPrivate);
  ExpectFailed(0x28000, 0x8000, ShareRefusal::kPrivate);
  ExpectFailed(0x13fff, 2, ShareRefusal::kMixed);
  ExpectFailed(0x10000, 0x8000, ShareRefusal::kMixed);
  ExpectFailed(0x27fff, 2, ShareRefusal::kMixed);
}

TEST_F(SharedViewTest, RefusesPagesThatAreConverting) {
  ASSERT_TRUE(leases().BlockAndWait(Range(0x11000, 0x1000), kNow));
  ExpectFailed(0x11000, 1, ShareRefusal::kConverting);
  ExpectFailed(0x10fff, 2, ShareRefusal::kConverting);
  ExpectFailed(0x10000, 0x4000, ShareRefusal::kConverting);
  Acquire(0x10000, 0x1000);
  Acquire(0x12000, 0x2000);
  // The map already says private, and the conversion is not over yet.
  ASSERT_OK(states_.Set(Range(0x11000, 0x1000), PageState::kPrivate));
  ExpectFailed(0x11000, 1, ShareRefusal::kConverting);
  leases().Unblock(Range(0x11000, 0x1000));
  ExpectFailed(0x11000, 1, ShareRefusal::kPrivate);
  ExpectFailed(0x10fff, 2, ShareRefusal::kMixed);
}

// Private at the first look, and shared when it is asked why.
TEST_F(SharedViewTest, APageThatIsSharedByThenIsConverting) {
  std::atomic<bool> stop{false};
  std::thread guest([&] {
    while (!stop.load()) {
      EXPECT_OK(states_.Set(Range(0x11000, 0x1000), PageState::kPrivate));
      EXPECT_OK(states_.Set(Range(0x11000, 0x1000), PageState::kShared));
    }
  });
  while (view_->refusals(ShareRefusal::kConverting) == 0 &&
         view_->refusals(ShareRefusal::kMixed) == 0) {
    (void)view_->Acquire(GuestAddress(0x11000), 8);
  }
  stop = true;
  guest.join();
  EXPECT_EQ(view_->refusals(ShareRefusal::kMixed), 0u) << "of a single page";
  EXPECT_FALSE(AnyLeased());
}

TEST_F(SharedViewTest, RefusesMisalignedAtomics) {
  for (uint64_t at : {0x10001ul, 0x10002ul, 0x10004ul, 0x10007ul, 0x10ffcul}) {
    auto value = view_->Load<uint64_t>(GuestAddress(at), kRelaxed);
    EXPECT_THAT(value, base::StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(ShareRefusalOf(value.status()),
                Optional(ShareRefusal::kMisaligned));
    EXPECT_THAT(
        ShareRefusalOf(view_->Store<uint64_t>(GuestAddress(at), 1, kRelaxed)),
        Optional(ShareRefusal::kMisaligned));
  }
  EXPECT_EQ(view_->refusals(ShareRefusal::kMisaligned), 10u);
  EXPECT_FALSE(view_->Load<uint16_t>(GuestAddress(0x10001), kRelaxed).ok());
  EXPECT_FALSE(view_->Load<uint32_t>(GuestAddress(0x10002), kRelaxed).ok());
  EXPECT_EQ(view_->refusals(ShareRefusal::kMisaligned), 12u);
  EXPECT_OK(view_->Load<uint8_t>(GuestAddress(0x10001), kRelaxed));
  EXPECT_THAT(
      ShareRefusalOf(
          view_->Load<uint32_t>(GuestAddress(0x14000), kRelaxed).status()),
      Optional(ShareRefusal::kPrivate));
  EXPECT_FALSE(AnyLeased());
}

TEST_F(SharedViewTest, EachRefusalHasAName) {
  std::vector<std::string> names;
  for (size_t i = 0; i < kShareRefusalCount; ++i) {
    names.emplace_back(ShareRefusalName(static_cast<ShareRefusal>(i)));
  }
  EXPECT_THAT(names,
              ElementsAre("empty", "wrapping", "not-ram", "aliased", "private",
                          "half-private", "converting", "misaligned"));
  EXPECT_EQ(ShareRefusalOf(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(ShareRefusalOf(absl::InvalidArgumentError("empty")), std::nullopt);
  absl::Status odd = absl::InvalidArgumentError("empty");
  odd.SetPayload("cloister/memory/share-refusal", absl::Cord("empty"));
  EXPECT_EQ(ShareRefusalOf(odd), std::nullopt) << "not a number";
}

TEST_F(SharedViewTest, RefusedAccessesTouchNothing) {
  ASSERT_OK(memory_->Fill(Range(0x10000, 0x8000), 0x11));
  std::vector<uint8_t> bytes(0x20, 0xaa);
  EXPECT_THAT(
      ShareRefusalOf(view_->Read(GuestAddress(0x13ff0), absl::MakeSpan(bytes))),
      Optional(ShareRefusal::kMixed));
  EXPECT_THAT(bytes, Each(0xaa));
  EXPECT_THAT(ShareRefusalOf(view_->Write(GuestAddress(0x13ff0), bytes)),
              Optional(ShareRefusal::kMixed));
  EXPECT_THAT(ShareRefusalOf(
                  view_->Store<uint32_t>(GuestAddress(0x14000), 7, kRelaxed)),
              Optional(ShareRefusal::kPrivate));
  ASSERT_OK(memory_->Read(GuestAddress(0x13ff0), absl::MakeSpan(bytes)));
  EXPECT_THAT(bytes, Each(0x11));
  EXPECT_THAT(ShareRefusalOf(view_->Read(GuestAddress(0x10000), {})),
              Optional(ShareRefusal::kEmpty));
}

TEST_F(SharedViewTest, AccessesSharedMemoryAcrossRegions) {
  std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_OK(view_->Write(GuestAddress(0x1fffc), bytes));
  std::vector<uint8_t> back(8);
  ASSERT_OK(view_->Read(GuestAddress(0x1fffc), absl::MakeSpan(back)));
  EXPECT_EQ(back, bytes);
  EXPECT_THAT(view_->Load<uint32_t>(GuestAddress(0x20000), kRelaxed),
              base::IsOkAndHolds(0x08070605u));
  ASSERT_OK(view_->Store<uint16_t>(GuestAddress(0x20002), 0xbeef,
                                   std::memory_order_release));
  EXPECT_THAT(view_->Load<uint8_t>(GuestAddress(0x20003), kRelaxed),
              base::IsOkAndHolds(0xbe));
  EXPECT_FALSE(AnyLeased());
}

TEST_F(SharedViewTest, ALeaseReachesItsRangeAndNoFurther) {
  Lease lease = Acquire(0x10ffc, 8);
  EXPECT_EQ(lease.range(), Range(0x10ffc, 8));
  std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_OK(lease.Write(0, bytes));
  std::vector<uint8_t> two(2);
  ASSERT_OK(lease.Read(6, absl::MakeSpan(two)));
  EXPECT_THAT(two, ElementsAre(7, 8));
  EXPECT_OK(lease.Read(8, {}));
  EXPECT_OK(lease.Write(8, {}));
  for (uint64_t offset : {7ul, 8ul, 9ul, UINT64_MAX, UINT64_MAX - 1}) {
    EXPECT_THAT(lease.Read(offset, absl::MakeSpan(two)),
                base::StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(lease.Write(offset, two),
                base::StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(lease.Load<uint16_t>(offset, kRelaxed),
                base::StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(lease.Store<uint16_t>(offset, 0, kRelaxed),
                base::StatusIs(absl::StatusCode::kOutOfRange));
  }
  EXPECT_THAT(lease.Read(9, {}), base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(two, ElementsAre(7, 8));
}

// Alignment is the address's, not the offset's.
TEST_F(SharedViewTest, AtomicsOfALeaseAreAligned) {
  Lease lease = Acquire(0x10ffc, 0x100);
  ASSERT_OK(lease.Store<uint32_t>(0, 0x12345678, kRelaxed));
  EXPECT_THAT(lease.Load<uint32_t>(0, std::memory_order_acquire),
              base::IsOkAndHolds(0x12345678u));
  EXPECT_THAT(lease.Load<uint64_t>(0, kRelaxed),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(lease.Store<uint64_t>(0, 0, kRelaxed),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(lease.Store<uint64_t>(4, 0, kRelaxed));
  EXPECT_THAT(lease.Load<uint32_t>(0, kRelaxed),
              base::IsOkAndHolds(0x12345678u));
}

TEST_F(SharedViewTest, CountsReturnToZero) {
  {
    Lease one = Acquire(0x10000, 0x4000);
    Lease two = Acquire(0x10800, 1);
    EXPECT_TRUE(leases().AnyLeased(Range(0x13000, 1)));
  }
  EXPECT_FALSE(AnyLeased());
}

TEST_F(SharedViewTest, MovingALeaseMovesItsCount) {
  const GuestRange page = Range(0x10000, 0x1000);
  const GuestRange other = Range(0x12000, 0x1000);
  Lease lease = Acquire(0x10000, 0x1000);
  {
    Lease moved = std::move(lease);
    EXPECT_EQ(moved.range(), page);
    EXPECT_TRUE(leases().AnyLeased(page));
    // NOLINTNEXTLINE(bugprone-use-after-move): that is what is tested.
    EXPECT_THAT(lease.Write(0, {1}),
                base::StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_THAT(lease.Load<uint8_t>(0, kRelaxed),
                base::StatusIs(absl::StatusCode::kFailedPrecondition));
    std::vector<struct iovec> none;
    EXPECT_THAT(lease.GatherIovecs(0, 1, &none),
                base::StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_THAT(none, IsEmpty());
    Lease assigned = Acquire(0x12000, 1);
    assigned = std::move(moved);  // ends the lease on `other`
    EXPECT_FALSE(leases().AnyLeased(other));
    EXPECT_TRUE(leases().AnyLeased(page));
    Lease& self = assigned;
    assigned = std::move(self);
    EXPECT_TRUE(leases().AnyLeased(page));
    EXPECT_OK(assigned.Write(0, {1}));
    lease = std::move(assigned);
  }
  EXPECT_TRUE(leases().AnyLeased(page));
  {
    std::thread ends_it([moved = std::move(lease)] {});
    ends_it.join();
  }
  EXPECT_FALSE(AnyLeased());
}

TEST_F(SharedViewTest, IovecsAreTheRange) {
  Lease lease = Acquire(0x1fff0, 0x30);
  std::vector<struct iovec> iovecs;
  ASSERT_OK(lease.GatherIovecs(0, 0x30, &iovecs));
  ASSERT_THAT(iovecs, SizeIs(2));
  EXPECT_EQ(iovecs[0].iov_len, 0x10u);
  EXPECT_EQ(iovecs[1].iov_len, 0x20u);
  static_cast<uint8_t*>(iovecs[0].iov_base)[0xf] = 7;
  static_cast<uint8_t*>(iovecs[1].iov_base)[0] = 8;
  EXPECT_THAT(view_->Load<uint8_t>(GuestAddress(0x1ffff), kRelaxed),
              base::IsOkAndHolds(7));
  EXPECT_THAT(view_->Load<uint8_t>(GuestAddress(0x20000), kRelaxed),
              base::IsOkAndHolds(8));
  // A part of it, behind what is there.
  ASSERT_OK(lease.GatherIovecs(0xf, 2, &iovecs));
  ASSERT_THAT(iovecs, SizeIs(4));
  EXPECT_EQ(iovecs[2].iov_base,
            static_cast<uint8_t*>(iovecs[0].iov_base) + 0xf);
  EXPECT_EQ(iovecs[2].iov_len, 1u);
  EXPECT_EQ(iovecs[3].iov_base, iovecs[1].iov_base);
  EXPECT_EQ(iovecs[3].iov_len, 1u);
  // Nothing of what is not leased.
  for (uint64_t offset : {uint64_t{0x2f}, uint64_t{0x31}, ~uint64_t{0}}) {
    EXPECT_THAT(lease.GatherIovecs(offset, 2, &iovecs),
                base::StatusIs(absl::StatusCode::kOutOfRange));
  }
  EXPECT_OK(lease.GatherIovecs(0x30, 0, &iovecs));
  EXPECT_THAT(iovecs, SizeIs(4));
}

TEST_F(SharedViewTest, IovecsLiveAsLongAsTheirLease) {
  const GuestRange page = Range(0x1f000, 0x1000);
  Lease lease = Acquire(0x1fff0, 0x30);
  std::vector<struct iovec> iovecs;
  ASSERT_OK(lease.GatherIovecs(0, 0x30, &iovecs));
  {
    Lease moved = std::move(lease);
    // A conversion does not get the pages, not even where nothing was accessed.
    EXPECT_FALSE(leases().BlockAndWait(page, kNow));
    std::vector<struct iovec> again;
    ASSERT_OK(moved.GatherIovecs(0, 0x30, &again));
    EXPECT_EQ(again[0].iov_base, iovecs[0].iov_base);
    lease = std::move(moved);
  }
  EXPECT_FALSE(leases().WaitIdle(page, kNow));
  { Lease ends = std::move(lease); }
  EXPECT_TRUE(leases().WaitIdle(page, kNow));
}

TEST_F(SharedViewTest, AConversionWaitsForLeasesAndRefusesNewOnes) {
  const GuestRange page = Range(0x11000, 0x1000);
  auto lease = std::make_unique<Lease>(Acquire(0x10ff0, 0x20));
  ASSERT_OK(lease->Store<uint32_t>(0x10, 42, kRelaxed));
  std::atomic<bool> taken{false};
  std::thread converter([&] {
    EXPECT_TRUE(leases().BlockAndWait(
        page, std::chrono::steady_clock::now() + std::chrono::minutes(10)));
    taken = true;
  });
  while (!leases().notifier().HasWaiters()) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(
        ShareRefusalOf(view_->Acquire(GuestAddress(0x11000), 1).status()),
        Optional(ShareRefusal::kConverting));
  }
  // The lease from before goes on.
  EXPECT_THAT(lease->Load<uint32_t>(0x10, kRelaxed), base::IsOkAndHolds(42u));
  EXPECT_FALSE(taken);
  lease.reset();
  converter.join();
  EXPECT_TRUE(taken);
}

TEST_F(SharedViewTest, ALeaseMayOutlastTheConversion) {
  const GuestRange page = Range(0x11000, 0x1000);
  Lease lease = Acquire(0x11000, 0x1000);
  EXPECT_FALSE(leases().BlockAndWait(page, kNow));
  ASSERT_OK(states_.Set(page, PageState::kPrivate));
  leases().Unblock(page);
  EXPECT_OK(lease.Store<uint32_t>(0, 1, kRelaxed));
  EXPECT_THAT(ShareRefusalOf(view_->Acquire(page).status()),
              Optional(ShareRefusal::kPrivate));
  EXPECT_TRUE(leases().AnyLeased(page));
}

TEST(SharedViewCreateTest, RefusesMemoryAboveTheMap) {
  std::vector<MemoryRegion> regions;
  regions.push_back(Region(PageStateMap::kEndAddress - 0x1000, 0x2000));
  ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                       GuestMemory::Create(std::move(regions)));
  PageStateMap states;
  EXPECT_THAT(SharedView::Create(&memory, &states),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(SharedViewCreateTest, ServesMemoryUpToTheEndOfTheMap) {
  constexpr uint64_t kStart = PageStateMap::kEndAddress - 0x2000;
  std::vector<MemoryRegion> regions;
  regions.push_back(Region(kStart, 0x2000));
  ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                       GuestMemory::Create(std::move(regions)));
  PageStateMap states;
  ASSERT_OK(states.Set(Range(kStart, 0x2000), PageState::kShared));
  ASSERT_OK_AND_ASSIGN(auto view, SharedView::Create(&memory, &states));
  const GuestAddress last(PageStateMap::kEndAddress - 1);
  EXPECT_OK(view->Store<uint8_t>(last, 9, kRelaxed));
  EXPECT_THAT(view->Load<uint8_t>(last, kRelaxed), base::IsOkAndHolds(9));
  EXPECT_THAT(ShareRefusalOf(view->Acquire(last, 2).status()),
              Optional(ShareRefusal::kNotRam));
}

// Devices beside a broker that follows the protocol, on real threads. While a
// page is private, or about to be, it holds the guest's secret; no device may
// see that or overwrite it. `marks_` is plain memory beside the pages, for
// ThreadSanitizer: it reports what the protocol does not order.
class SharedViewThreadsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 32;
  static constexpr uint8_t kSecret = 0x5e;
  static constexpr uint8_t kData = 0xda;

  void SetUp() override {
    std::vector<MemoryRegion> regions;
    regions.push_back(Region(0, kPages / 2 * kPageSize));
    regions.push_back(Region(kPages / 2 * kPageSize, kPages / 2 * kPageSize));
    ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                         GuestMemory::Create(std::move(regions)));
    memory_ = std::make_unique<GuestMemory>(std::move(memory));
    ASSERT_OK(states_.Set(Pages(0, kPages), PageState::kShared));
    ASSERT_OK_AND_ASSIGN(view_, SharedView::Create(memory_.get(), &states_));
  }

  static GuestRange Pages(uint64_t first, uint64_t count) {
    return Range(first * kPageSize, count * kPageSize);
  }
  template <typename Visit>
  void ForEachMark(const GuestRange& range, Visit visit) {
    for (uint64_t i = range.start().gfn().value();
         i <= range.last().gfn().value(); ++i) {
      visit(marks_[i]);
    }
  }

  void Device(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<uint8_t> bytes;
    while (!stop_.load(kRelaxed)) {
      const uint64_t start = random() % (kPages * kPageSize);
      const uint64_t most = kPages * kPageSize - start;
      bytes.resize(1 + random() % std::min<uint64_t>(most, 3 * kPageSize));
      auto lease = view_->Acquire(GuestAddress(start), bytes.size());
      if (!lease.ok()) {
        refused_.fetch_add(1, kRelaxed);
        continue;
      }
      granted_.fetch_add(1, kRelaxed);
      ForEachMark(lease->range(), [&](const int& mark) {
        if (mark != 0) wrong_.fetch_add(1, kRelaxed);
      });
      EXPECT_OK(lease->Read(0, absl::MakeSpan(bytes)));
      if (std::count(bytes.begin(), bytes.end(), kSecret) != 0) {
        wrong_.fetch_add(1, kRelaxed);
      }
      std::fill(bytes.begin(), bytes.end(), kData);
      EXPECT_OK(lease->Write(0, bytes));
    }
  }

  // One conversion there and back.
  void Convert(const GuestRange& range) {
    ASSERT_TRUE(leases().BlockAndWait(
        range, std::chrono::steady_clock::now() + std::chrono::minutes(10)));
    ForEachMark(range, [](int& mark) { mark = 1; });
    ASSERT_OK(memory_->Fill(range, kSecret));
    ASSERT_OK(states_.Set(range, PageState::kPrivate));
    leases().Unblock(range);
    std::this_thread::yield();
    std::vector<uint8_t> bytes(range.size());
    ASSERT_OK(memory_->Read(range.start(), absl::MakeSpan(bytes)));
    EXPECT_EQ(
        static_cast<uint64_t>(std::count(bytes.begin(), bytes.end(), kSecret)),
        range.size());
    ASSERT_OK(memory_->Fill(range, 0));
    ForEachMark(range, [](int& mark) { mark = 0; });
    ASSERT_OK(states_.Set(range, PageState::kShared));
  }

  LeaseTable& leases() { return SharedViewTestPeer::Leases(view_.get()); }

  std::unique_ptr<GuestMemory> memory_;
  PageStateMap states_;
  std::unique_ptr<SharedView> view_;
  std::vector<int> marks_ = std::vector<int>(kPages);
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> granted_{0};
  std::atomic<uint64_t> refused_{0};
  std::atomic<int> wrong_{0};
};

TEST_F(SharedViewThreadsTest, NoDeviceReachesWhatAConversionTook) {
  std::vector<std::thread> devices;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    devices.emplace_back([this, seed] { Device(seed); });
  }
  while (granted_.load() < 100) std::this_thread::yield();
  std::mt19937_64 random(7);
  // At least so often, and until both outcomes were seen.
  for (int i = 0; i < 1000 || refused_.load() == 0; ++i) {
    const uint64_t first = random() % kPages;
    const uint64_t count = 1 + random() % std::min<uint64_t>(kPages - first, 6);
    Convert(Pages(first, count));
    if (HasFatalFailure()) break;
  }
  stop_ = true;
  for (std::thread& device : devices) device.join();
  EXPECT_EQ(wrong_.load(), 0);
  EXPECT_FALSE(leases().AnyLeased(Pages(0, kPages)));
  uint64_t counted = 0;
  for (ShareRefusal refusal : {ShareRefusal::kPrivate, ShareRefusal::kMixed,
                               ShareRefusal::kConverting}) {
    counted += view_->refusals(refusal);
  }
  EXPECT_EQ(counted, refused_.load());
}

}  // namespace
}  // namespace cloister::memory
