// SPDX-License-Identifier: Apache-2.0
//
// Conversions, exits and bad requests of real guests against the libraries, on
// a KVM with private memory.
#include "cloister/tests/microguest.h"

#include <chrono>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/syscalls.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Op = Microguest::Op;
using memory::BackingSide;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPrivate = Microguest::kPrivateAttribute;
constexpr uint64_t kEinval = static_cast<uint64_t>(-22);
constexpr uint64_t kData = 2 * kMiB;  // where the guest's data starts

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

// Matches a Status or StatusOr that is an error with a matching message.
MATCHER_P(Fails, message, "is an error with the given message") {
  const absl::Status& status = base::GetStatus(arg);
  *result_listener << status.ToString();
  return !status.ok() &&
         ::testing::ExplainMatchResult(message, std::string(status.message()),
                                       result_listener);
}

uint64_t Va(PageState state, uint64_t gpa) {
  return state == PageState::kShared ? Microguest::SharedVa(gpa) : gpa;
}

uint64_t BackedPages(Microguest& guest, BackingSide side,
                     const GuestRange& range) {
  uint64_t pages = 0;
  EXPECT_OK(guest.backend().ForEachBacked(
      side, range,
      [&](const GuestRange& part) { pages += part.size() / kPageSize; }));
  return pages;
}

// Waits, yielding, for what other threads bring about.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

std::unique_ptr<Microguest> Make(const MicroguestOptions& options = {}) {
  auto guest = Microguest::Create(options);
  EXPECT_OK(guest);
  return guest.ok() ? *std::move(guest) : nullptr;
}

// A range by where it starts from a multiple of 2 MiB.
struct Case {
  uint64_t offset;
  uint64_t size;
};

constexpr Case kCases[] = {{0, kPageSize},        {kPageSize, kPageSize},
                           {2 * kMiB, kPageSize}, {0, 2 * kMiB},
                           {kPageSize, 2 * kMiB}, {2 * kMiB, 2 * kMiB}};

std::string CaseName(const Case& range) {
  return absl::StrCat(range.size / 1024, "KAt", range.offset / 1024, "K");
}

class ConversionTest : public ::testing::TestWithParam<Case> {
 protected:
  void ThereAndBack(const MicroguestOptions& options);
};

// One range there and back, its neighbours on both sides watched throughout.
void ConversionTest::ThereAndBack(const MicroguestOptions& options) {
  const uint64_t start = 4 * kMiB + GetParam().offset;
  const uint64_t pages = GetParam().size / kPageSize;
  const uint64_t around = kPageSize;  // each side
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  const GuestRange range = Range(start, GetParam().size);
  const uint64_t first = start - around, all = pages + 2;
  ASSERT_OK(guest->FillPages(first, all, 100));
  // The host sees nothing of it.
  EXPECT_EQ(
      BackedPages(*guest, BackingSide::kShared, Range(first, all * kPageSize)),
      0u);
  EXPECT_EQ(
      BackedPages(*guest, BackingSide::kPrivate, Range(first, all * kPageSize)),
      all);
  EXPECT_FALSE(guest->view().Acquire(range).ok());

  EXPECT_THAT(guest->Convert(start, pages, 0), IsOkAndHolds(0u));
  EXPECT_TRUE(guest->states().IsWholly(range, PageState::kShared));
  EXPECT_EQ(BackedPages(*guest, BackingSide::kPrivate, range), 0u);
  ASSERT_OK(guest->CheckPages(Microguest::SharedVa(start), pages, 0, 0))
      << "content is lost, not carried over";
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(start), pages, 5000));
  ASSERT_OK(guest->CheckPages(first, 1, 100));
  ASSERT_OK(guest->CheckPages(start + GetParam().size, 1, 100 + pages + 1));
  for (uint64_t page : {uint64_t{0}, pages - 1}) {
    EXPECT_THAT(
        guest->view().Load<uint64_t>(GuestAddress(start + page * kPageSize),
                                     std::memory_order_acquire),
        IsOkAndHolds(5000 + page));
  }

  EXPECT_THAT(guest->Convert(start, pages, kPrivate), IsOkAndHolds(0u));
  EXPECT_TRUE(guest->states().IsWholly(range, PageState::kPrivate));
  EXPECT_EQ(BackedPages(*guest, BackingSide::kShared, range), 0u);
  EXPECT_FALSE(guest->view().Acquire(range).ok());
  ASSERT_OK(guest->CheckPages(start, pages, 0, 0));
  ASSERT_OK(guest->CheckPages(first, 1, 100));
  ASSERT_OK(guest->CheckPages(start + GetParam().size, 1, 100 + pages + 1));
  EXPECT_THAT(guest->Faults(), IsEmpty());
}

TEST_P(ConversionTest, ThereAndBackWithNeighboursIntact) { ThereAndBack({}); }

// As on kernels before 6.18, whose guest_memfd cannot be mapped: view B needs
// the PRIVATE attribute, and cachestat tells what backs it.
TEST_P(ConversionTest, WorksWithAGuestMemfdThatCannotBeMapped) {
  kvm::FaultKvm older(kvm::RealSyscalls());
  older.HideCapability(kvm::Capability::kGuestMemfdFlags);
  ThereAndBack({.syscalls = &older});
}

INSTANTIATE_TEST_SUITE_P(Ranges, ConversionTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return CaseName(info.param); });

// The same kind of VM: accesses through view A trap, a stray write through
// view B is there, seen and freed.
TEST(MicroguestTest, AGuestMemfdThatCannotBeMappedTrapsAndIsCounted) {
  kvm::FaultKvm older(kvm::RealSyscalls());
  older.HideCapability(kvm::Capability::kGuestMemfdFlags);
  auto guest = Make({.syscalls = &older});
  ASSERT_NE(guest, nullptr);
  ASSERT_FALSE(guest->vm().SupportedGuestMemfdFlags().mmap);
  constexpr uint64_t kPage = kData + 5 * kPageSize;
  ASSERT_OK(guest->FillPages(kData, 8, 50));
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(kPage), 1, 99));
  std::vector<kvm::MemoryFaultExit> faults = guest->Faults();
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].address, GuestAddress(kPage));
  EXPECT_EQ(guest->states().Get(GuestAddress(kPage)), PageState::kShared);
  ASSERT_OK(guest->broker().SurveyFor(std::chrono::minutes(1)));
  EXPECT_EQ(guest->broker().stats().double_backed_bytes, 0u);

  ASSERT_OK(guest->FillPages(kPage, 1, 7));
  ASSERT_OK(guest->broker().SurveyFor(std::chrono::minutes(1)));
  EXPECT_EQ(guest->broker().stats().double_backed_bytes, kPageSize);
  ASSERT_OK_AND_ASSIGN(auto report, guest->Reconcile());
  EXPECT_EQ(report.private_bytes, kPageSize);
  EXPECT_EQ(report.freed_bytes, kPageSize);
  EXPECT_OK(guest->CheckPages(Microguest::SharedVa(kPage), 1, 99));
  EXPECT_OK(guest->CheckPages(kData, 5, 50));
  EXPECT_OK(guest->CheckPages(kPage + kPageSize, 2, 56));
}

TEST(MicroguestTest, OddPagesAreHolesAndConvertBack) {
  constexpr uint64_t kPages = 64;
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  ASSERT_OK(guest->FillPages(kData, kPages, 1));
  for (uint64_t page = 1; page < kPages; page += 2) {
    ASSERT_THAT(guest->Convert(kData + page * kPageSize, 1, 0),
                IsOkAndHolds(0u));
  }
  for (uint64_t page = 0; page < kPages; ++page) {
    const uint64_t gpa = kData + page * kPageSize;
    EXPECT_EQ(guest->states().Get(GuestAddress(gpa)),
              page % 2 != 0 ? PageState::kShared : PageState::kPrivate);
    if (page % 2 == 0) {
      ASSERT_OK(guest->CheckPages(gpa, 1, 1 + page));
    }
  }
  // The whole in one request: what is private already keeps its content.
  EXPECT_THAT(guest->Convert(kData, kPages, kPrivate), IsOkAndHolds(0u));
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_OK(guest->CheckPages(kData + page * kPageSize, 1,
                                page % 2 != 0 ? 0 : 1 + page));
  }
  EXPECT_EQ(BackedPages(*guest, BackingSide::kShared,
                        Range(kData, kPages * kPageSize)),
            0u);
}

TEST(MicroguestTest, VcpusConvertTheirPagesAtTheSameTime) {
  constexpr uint32_t kCpus = 4;
  constexpr uint64_t kPages = 64;
  auto guest = Make({.cpus = kCpus});
  ASSERT_NE(guest, nullptr);
  auto start = [](uint32_t cpu) { return kData + cpu * kPages * kPageSize; };
  for (PageState state : {PageState::kPrivate, PageState::kShared,
                          PageState::kPrivate, PageState::kShared}) {
    for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      guest->Begin(cpu, {.op = Op::kConvert,
                         .address = start(cpu),
                         .count = kPages,
                         .value = state == PageState::kPrivate ? kPrivate : 0});
    }
    for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      ASSERT_OK_AND_ASSIGN(auto result, guest->Wait(cpu));
      EXPECT_EQ(result.result, 0u);
      ASSERT_OK(
          guest->FillPages(Va(state, start(cpu)), kPages, cpu << 16, cpu));
    }
    // Each sees what the others wrote.
    for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      const uint32_t other = (cpu + 1) % kCpus;
      ASSERT_OK(guest->CheckPages(Va(state, start(other)), kPages, other << 16,
                                  1, cpu));
    }
  }
  EXPECT_THAT(guest->Faults(), IsEmpty());
}

struct Shape {
  uint32_t cpus;
  uint32_t slots;  // above the first 2 MiB, in each view
  bool punch;
};

// vCPUs that convert a range each at the same time, over the borders of slots
// where they are large enough, there and back twice.
class ShapeTest : public ::testing::TestWithParam<std::tuple<Shape, Case>> {
 protected:
  static constexpr uint64_t kStep =
      4 * kMiB;  // from a vCPU's range to the next

  void SetUp() override;
  const Shape& shape() const { return std::get<0>(GetParam()); }
  const Case& range() const { return std::get<1>(GetParam()); }
  uint64_t pages() const { return range().size / kPageSize; }
  uint64_t Start(uint32_t cpu) const {
    return 2 * kData + cpu * kStep + range().offset;
  }
  static uint64_t Value(PageState state, uint32_t cpu) {
    return (state == PageState::kShared ? 1u << 24 : 1u << 25) + (cpu << 16);
  }
  // The pages on both sides of each range.
  void FillNeighbours();
  void CheckNeighbours();
  void ConvertAll(PageState to);

  std::unique_ptr<Microguest> guest_;
};

void ShapeTest::SetUp() {
  MicroguestOptions options;
  options.memory = 3 * kData + shape().cpus * kStep;
  options.cpus = shape().cpus;
  options.punch = shape().punch;
  if (shape().slots > 1) {
    options.slot_bytes =
        (options.memory - kData) / shape().slots / kPageSize * kPageSize;
    // A slot ends in the midst of a large range.
    bool cut = false;
    for (uint32_t cpu = 0; cpu < shape().cpus; ++cpu) {
      const uint64_t end = Start(cpu) + range().size;
      cut |= Start(cpu) / options.slot_bytes != (end - 1) / options.slot_bytes;
    }
    EXPECT_EQ(cut, range().size > kPageSize);
  }
  guest_ = Make(options);
  ASSERT_NE(guest_, nullptr);
}

void ShapeTest::FillNeighbours() {
  for (uint32_t cpu = 0; cpu < shape().cpus; ++cpu) {
    ASSERT_OK(guest_->FillPages(Start(cpu) - kPageSize, 1, 70 + cpu));
    ASSERT_OK(guest_->FillPages(Start(cpu) + range().size, 1, 80 + cpu));
  }
}

void ShapeTest::CheckNeighbours() {
  for (uint32_t cpu = 0; cpu < shape().cpus; ++cpu) {
    EXPECT_OK(guest_->CheckPages(Start(cpu) - kPageSize, 1, 70 + cpu));
    EXPECT_OK(guest_->CheckPages(Start(cpu) + range().size, 1, 80 + cpu));
  }
}

void ShapeTest::ConvertAll(PageState to) {
  for (uint32_t cpu = 0; cpu < shape().cpus; ++cpu) {
    guest_->Begin(cpu, {.op = Op::kConvert,
                        .address = Start(cpu),
                        .count = pages(),
                        .value = to == PageState::kPrivate ? kPrivate : 0});
  }
  for (uint32_t cpu = 0; cpu < shape().cpus; ++cpu) {
    ASSERT_OK_AND_ASSIGN(auto result, guest_->Wait(cpu));
    EXPECT_EQ(result.result, 0u);
  }
}

TEST_P(ShapeTest, VcpusConvertAcrossSlots) {
  const auto [cpus, slots, punch] = shape();
  ASSERT_NO_FATAL_FAILURE(FillNeighbours());
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    ASSERT_OK(guest_->FillPages(Start(cpu), pages(),
                                Value(PageState::kPrivate, cpu), cpu));
  }
  for (int step = 0; step < 4; ++step) {
    const PageState state =
        step % 2 == 0 ? PageState::kShared : PageState::kPrivate;
    ASSERT_NO_FATAL_FAILURE(ConvertAll(state));
    for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
      // What was there before is lost by punching, and by nothing else.
      const bool kept = !punch && step > 0;
      const uint64_t address = Va(state, Start(cpu));
      ASSERT_OK(guest_->CheckPages(
          address, pages(), kept ? Value(state, cpu) : 0, kept ? 1 : 0, cpu));
      ASSERT_OK(guest_->FillPages(address, pages(), Value(state, cpu), cpu));
    }
  }
  CheckNeighbours();
  EXPECT_THAT(guest_->Faults(), IsEmpty());

  // All is private now. Unpunched, the shared side is there as well, until it
  // is reconciled away; private content does not suffer.
  guest_->SetPunching(true);
  ASSERT_OK_AND_ASSIGN(auto report, guest_->Reconcile());
  EXPECT_EQ(report.shared_bytes, punch ? 0 : cpus * range().size);
  EXPECT_EQ(report.freed_bytes, report.shared_bytes);
  EXPECT_EQ(report.private_bytes, 0u);
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    EXPECT_EQ(BackedPages(*guest_, BackingSide::kShared,
                          Range(Start(cpu), range().size)),
              0u);
    EXPECT_OK(guest_->CheckPages(Start(cpu), pages(),
                                 Value(PageState::kPrivate, cpu)));
  }
  CheckNeighbours();
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ShapeTest,
    ::testing::Combine(::testing::Values(Shape{1, 1, true}, Shape{1, 1, false},
                                         Shape{1, 6, true}, Shape{1, 6, false},
                                         Shape{4, 1, true}, Shape{4, 1, false},
                                         Shape{4, 6, true}, Shape{4, 6, false}),
                       ::testing::ValuesIn(kCases)),
    [](const auto& info) {
      const Shape& shape = std::get<0>(info.param);
      return absl::StrCat(shape.cpus, "CpusX", shape.slots, "Slots",
                          shape.punch ? "" : "Unpunched", "X",
                          CaseName(std::get<1>(info.param)));
    });

TEST(MicroguestTest, NeverTouchedPagesConvert) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(guest->Convert(kData, 512, 0), IsOkAndHolds(0u));
  EXPECT_THAT(guest->Convert(kData, 512, kPrivate), IsOkAndHolds(0u));
  EXPECT_THAT(guest->Convert(kData, 512, kPrivate), IsOkAndHolds(0u));
  ASSERT_OK(guest->CheckPages(kData, 1, 0, 0));
  EXPECT_EQ(guest->broker().stats().no_ops, 1u);
}

struct BadRequest {
  const char* name;
  uint64_t gpa;
  uint64_t npages;
  uint64_t attributes;
};

class BadRequestTest : public ::testing::TestWithParam<BadRequest> {};

// The code in RAX, nothing changed, and the guest goes on.
TEST_P(BadRequestTest, IsRefusedAndTheGuestRunsOn) {
  const BadRequest& bad = GetParam();
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  ASSERT_OK(guest->FillPages(14 * kMiB, 512, 7));
  const uint64_t generation = guest->states().CurrentGeneration();
  EXPECT_THAT(guest->Convert(bad.gpa, bad.npages, bad.attributes),
              IsOkAndHolds(kEinval));
  EXPECT_EQ(guest->states().CurrentGeneration(), generation);
  ASSERT_OK(guest->CheckPages(14 * kMiB, 512, 7));
  EXPECT_THAT(guest->Convert(kData, 1, 0), IsOkAndHolds(0u));
}

INSTANTIATE_TEST_SUITE_P(
    Requests, BadRequestTest,
    ::testing::Values(
        BadRequest{"Misaligned", kData + 8, 1, 0},
        BadRequest{"Empty", kData, 0, 0},
        BadRequest{"Wrapping", ~uint64_t{0} << 12, 2, 0},
        BadRequest{"NotRam", 16 * kMiB, 1, 0},
        BadRequest{"DeviceWindow", 0xfee00000, 1, kPrivate},
        BadRequest{"HalfOutside", 15 * kMiB, 512, 0},
        BadRequest{"HugeCount", kData, (uint64_t{1} << 52) - 1, 0},
        BadRequest{"HugeCountFromZero", 0, (uint64_t{1} << 52) - 1, kPrivate},
        BadRequest{"CountOf2To52", kData, uint64_t{1} << 52, 0},
        BadRequest{"ReservedAttributes", kData, 1, uint64_t{1} << 5}),
    [](const auto& info) { return info.param.name; });

TEST(MicroguestTest, ViewBAddressesAreNoRam) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(guest->Convert(guest->c_bit() | kData, 1, 0),
              IsOkAndHolds(kEinval));
}

TEST(MicroguestTest, AliasedPagesSucceedAndStay) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  // Across the end of the aliased MiB.
  EXPECT_THAT(guest->Convert(kMiB - 4 * kPageSize, 8, 0), IsOkAndHolds(0u));
  EXPECT_TRUE(guest->states().IsWholly(Range(0, kMiB), PageState::kAliased));
  EXPECT_TRUE(
      guest->states().IsWholly(Range(kMiB, 4 * kPageSize), PageState::kShared));
}

class ImplicitTest : public ::testing::TestWithParam<memory::ImplicitPolicy> {};

TEST_P(ImplicitTest, AnAccessThroughTheSharedViewConverts) {
  MicroguestOptions options;
  options.policy.implicit = GetParam();
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  guest->broker().ArmImplicitPolicy();
  constexpr uint64_t kPage = kData + 5 * kPageSize;
  ASSERT_OK(guest->FillPages(kData, 8, 50));
  ASSERT_OK(guest->CheckPages(Microguest::SharedVa(kPage), 1, 0));
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(kPage), 1, 99));
  EXPECT_THAT(guest->view().Load<uint64_t>(GuestAddress(kPage),
                                           std::memory_order_acquire),
              IsOkAndHolds(99u));
  ASSERT_OK(guest->CheckPages(kData, 5, 50));
  ASSERT_OK(guest->CheckPages(kPage + kPageSize, 2, 56));
  std::vector<kvm::MemoryFaultExit> faults = guest->Faults();
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].address, GuestAddress(kPage));
  EXPECT_EQ(faults[0].size, kPageSize);
  EXPECT_TRUE(faults[0].is_private);
  const memory::ConversionStats stats = guest->broker().stats();
  EXPECT_EQ(stats.to_shared[1].requests, 1u);
  EXPECT_EQ(stats.to_shared[1].bytes, kPageSize);
  EXPECT_EQ(stats.implicit_after_set_point,
            GetParam() == memory::ImplicitPolicy::kCount ? 1u : 0u);
}

INSTANTIATE_TEST_SUITE_P(Policies, ImplicitTest,
                         ::testing::Values(memory::ImplicitPolicy::kAllow,
                                           memory::ImplicitPolicy::kCount));

TEST(MicroguestTest, ADeniedImplicitConversionEndsTheVcpuAndSaysAll) {
  MicroguestOptions options;
  options.cpus = 2;
  options.policy.implicit = memory::ImplicitPolicy::kDeny;
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  // Before the set point it is allowed.
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(kData), 1, 1));
  guest->broker().ArmImplicitPolicy();
  ASSERT_OK(guest->FillPages(kData + kPageSize, 1, 11));
  EXPECT_THAT(guest->CheckPages(Microguest::SharedVa(kData + kPageSize), 1, 0),
              Fails(AllOf(HasSubstr("0x201000"), HasSubstr("private"),
                          HasSubstr("denied by policy"), HasSubstr(", slot 1"),
                          HasSubstr("RIP 0x8"))));
  // Nothing was converted, nothing lost.
  EXPECT_EQ(guest->states().Get(GuestAddress(kData + kPageSize)),
            PageState::kPrivate);
  EXPECT_OK(guest->CheckPages(kData + kPageSize, 1, 11, 1, /*cpu=*/1));
  EXPECT_EQ(guest->broker().stats().implicit_denied, 1u);
}

// SlotAllocator's order: aliased and other RAM in view A, then in view B.
constexpr uint16_t kViewASlot = 1;
constexpr uint16_t kViewBSlot = 3;

TEST(MicroguestTest, SlotDeletedUnderPrivateAccess) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  constexpr uint64_t kPage = kData + 3 * kPageSize;
  const uint64_t gpa = kPage | guest->c_bit();
  ASSERT_OK(guest->vm().SetMemoryAttributes(
      Range(kData | guest->c_bit(), 8 * kPageSize), /*is_private=*/true));
  guest->Begin(0, {.op = Op::kWatch, .address = kPage});
  ASSERT_TRUE(Eventually([&] { return guest->Progress(0) > 100; }));
  ASSERT_OK(guest->vm().DeleteMemoryRegion(kvm::Slot(kViewBSlot)));
  EXPECT_THAT(guest->Wait(0),
              Fails(AllOf(HasSubstr("private access"),
                          HasSubstr(GuestAddress(gpa).ToString()),
                          HasSubstr("RIP 0x8"))));
  std::vector<kvm::MemoryFaultExit> faults = guest->Faults();
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].address, GuestAddress(gpa));
  EXPECT_EQ(faults[0].size, kPageSize);
  EXPECT_EQ(faults[0].flags, uint64_t{1} << 3);
}

TEST(MicroguestTest, PrivateAccessWithoutASlot) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  // Just past RAM, where the guest has page tables but the VM no slot.
  constexpr uint64_t kHole = 16 * kMiB + 7 * kPageSize;
  ASSERT_OK(guest->vm().SetMemoryAttributes(Range(kHole, kPageSize), true));
  EXPECT_THAT(guest->CheckPages(Microguest::SharedVa(kHole), 1, 0),
              Fails(AllOf(HasSubstr(GuestAddress(kHole).ToString()),
                          HasSubstr("not-ram"))));
  std::vector<kvm::MemoryFaultExit> faults = guest->Faults();
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].address, GuestAddress(kHole));
  EXPECT_EQ(faults[0].size, kPageSize);
  EXPECT_EQ(faults[0].flags, uint64_t{1} << 3);
  EXPECT_EQ(guest->states().Get(GuestAddress(kHole)), PageState::kNotRam);
}

TEST(MicroguestTest, PrivateAccessInASlotWithoutGuestMemfd) {
  MicroguestOptions options;
  options.policy.implicit = memory::ImplicitPolicy::kDeny;
  for (uint64_t page : {kData, 16 * kMiB - kPageSize}) {
    auto guest = Make(options);
    ASSERT_NE(guest, nullptr);
    guest->broker().ArmImplicitPolicy();
    EXPECT_FALSE(guest->CheckPages(Microguest::SharedVa(page), 1, 0).ok());
    std::vector<kvm::MemoryFaultExit> faults = guest->Faults();
    ASSERT_EQ(faults.size(), 1u);
    EXPECT_EQ(faults[0].address, GuestAddress(page));
    EXPECT_EQ(faults[0].size, kPageSize);
    EXPECT_EQ(faults[0].flags, uint64_t{1} << 3);
  }
}

TEST(MicroguestTest, SharedSlotDeletedMakesDeviceAccesses) {
  auto guest = Make();
  ASSERT_NE(guest, nullptr);
  ASSERT_THAT(guest->Convert(kData, 1, 0), IsOkAndHolds(0u));
  ASSERT_OK(guest->CheckPages(Microguest::SharedVa(kData), 1, 0));
  ASSERT_OK(guest->vm().DeleteMemoryRegion(kvm::Slot(kViewASlot)));
  EXPECT_OK(guest->CheckPages(Microguest::SharedVa(kData), 1, ~uint64_t{0}));
  EXPECT_THAT(guest->MmioReads(), ElementsAre(kData));
  EXPECT_THAT(guest->Faults(), IsEmpty());
}

TEST(MicroguestTest, RequestsThatArriveWhilePausedCompleteAfterwards) {
  constexpr uint32_t kCpus = 3;
  auto guest = Make({.cpus = kCpus});
  ASSERT_NE(guest, nullptr);
  ASSERT_OK(guest->FillPages(kData, 2 * kCpus, 30));
  guest->broker().Pause();
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    guest->Begin(cpu, {.op = Op::kConvert,
                       .address = kData + 2 * cpu * kPageSize,
                       .count = 1,
                       .value = 0});
  }
  ASSERT_TRUE(
      Eventually([&] { return guest->broker().stats().queued == kCpus; }));
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) EXPECT_TRUE(guest->busy(cpu));
  EXPECT_TRUE(guest->states().IsWholly(Range(kData, 2 * kCpus * kPageSize),
                                       PageState::kPrivate));
  guest->broker().Resume();
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    ASSERT_OK_AND_ASSIGN(auto result, guest->Wait(cpu));
    EXPECT_EQ(result.result, 0u);
  }
  for (uint32_t page = 0; page < 2 * kCpus; ++page) {
    EXPECT_EQ(guest->states().Get(GuestAddress(kData + page * kPageSize)),
              page % 2 == 0 ? PageState::kShared : PageState::kPrivate);
  }
}

// vCPU threads parked and let go while both convert all the time.
TEST(MicroguestTest, PausingVcpusLosesNoRequest) {
  auto guest = Make({.cpus = 2});
  ASSERT_NE(guest, nullptr);
  for (uint32_t cpu : {0, 1}) {
    guest->Begin(cpu, {.op = Op::kToggle,
                       .address = kData + cpu * 8 * kPageSize,
                       .count = 8});
  }
  for (int i = 0; i < 20; ++i) {
    for (uint32_t cpu : {0, 1}) guest->runner(cpu).RequestPause();
    for (uint32_t cpu : {0, 1}) ASSERT_TRUE(guest->runner(cpu).WaitPaused());
    const uint64_t before = guest->Progress(0) + guest->Progress(1);
    EXPECT_EQ(guest->broker().stats().queued, 0u);
    for (uint32_t cpu : {0, 1}) guest->runner(cpu).Resume();
    ASSERT_TRUE(Eventually(
        [&] { return guest->Progress(0) + guest->Progress(1) > before; }));
  }
  for (uint32_t cpu : {0, 1}) guest->Stop(cpu);
  uint64_t conversions = 0;
  for (uint32_t cpu : {0, 1}) {
    ASSERT_OK_AND_ASSIGN(auto result, guest->Wait(cpu));
    EXPECT_EQ(result.result, 0u);
    conversions += result.progress;
  }
  const memory::ConversionStats stats = guest->broker().stats();
  EXPECT_EQ(stats.to_shared[0].requests, conversions);
  EXPECT_EQ(stats.to_private[0].requests, conversions);
  EXPECT_TRUE(guest->states().IsWholly(Range(kData, 16 * kPageSize),
                                       PageState::kPrivate));
}

}  // namespace
}  // namespace cloister::tests
