// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/elf.h"

#include <elf.h>

#include <functional>
#include <random>
#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

auto IsInvalid(const std::string& text) {
  return StatusIs(kInvalid, AllOf(HasSubstr(text), Not(HasSubstr("\n"))));
}

absl::StatusOr<ElfKernel> Parse(std::vector<uint8_t> file) {
  return ParseElfKernel(SharedBytes(std::move(file)));
}

Elf64_Ehdr* Header(std::vector<uint8_t>& file) {
  return reinterpret_cast<Elf64_Ehdr*>(file.data());
}
Elf64_Phdr* Segment(std::vector<uint8_t>& file, int index) {
  return reinterpret_cast<Elf64_Phdr*>(file.data() + sizeof(Elf64_Ehdr)) +
         index;
}

// Parses MakeVmlinux() after `change`.
absl::StatusOr<ElfKernel> ParseChanged(
    const std::function<void(std::vector<uint8_t>&)>& change) {
  std::vector<uint8_t> file = MakeVmlinux();
  change(file);
  return Parse(std::move(file));
}

TEST(ElfTest, ReadsSegmentsAndEntry) {
  ASSERT_OK_AND_ASSIGN(ElfKernel kernel, Parse(MakeVmlinux()));
  ASSERT_EQ(kernel.segments.size(), 2u);
  EXPECT_EQ(kernel.segments[0].gpa, GuestAddress(0x1000000));
  EXPECT_EQ(kernel.segments[0].data.size(), 64u);
  EXPECT_EQ(kernel.segments[0].data.span()[0], 0x90);
  EXPECT_EQ(kernel.segments[1].gpa, GuestAddress(0x1200000));
  EXPECT_EQ(kernel.segments[1].data.size(), 32u);
  EXPECT_EQ(kernel.segments[1].memory_size, 0x1000u);
  EXPECT_EQ(kernel.entry, GuestAddress(0x1000000));
}

TEST(ElfTest, SegmentsAreSliceOfTheFile) {
  SharedBytes file(MakeVmlinux());
  ASSERT_OK_AND_ASSIGN(ElfKernel kernel, ParseElfKernel(file));
  EXPECT_GE(kernel.segments[0].data.data(), file.data());
  EXPECT_LE(kernel.segments[0].data.data(), file.data() + file.size());
}

TEST(ElfTest, AVirtualEntryIsTranslated) {
  ASSERT_OK_AND_ASSIGN(ElfKernel kernel,
                       Parse(MakeElf(LinuxLikeSegments(), 0xffffffff81200010)));
  EXPECT_EQ(kernel.entry, GuestAddress(0x1200010));
}

TEST(ElfTest, TheEntryMustBeLoadedFromTheFile) {
  EXPECT_THAT(Parse(MakeElf(LinuxLikeSegments(), 0x1000040)),
              IsInvalid("entry point 0x1000040"));
  // In BSS.
  EXPECT_THAT(Parse(MakeElf(LinuxLikeSegments(), 0x1200020)),
              IsInvalid("entry point"));
}

TEST(ElfTest, SegmentsAreSortedByPhysicalAddress) {
  std::vector<FakeSegment> segments = LinuxLikeSegments();
  std::swap(segments[0], segments[1]);
  ASSERT_OK_AND_ASSIGN(ElfKernel kernel, Parse(MakeElf(segments, 0x1000000)));
  EXPECT_LT(kernel.segments[0].gpa, kernel.segments[1].gpa);
}

TEST(ElfTest, EmptySegmentsAndOtherHeadersAreIgnored) {
  std::vector<FakeSegment> segments = LinuxLikeSegments();
  segments.push_back({0x1000010, 0, {}, 0});
  EXPECT_OK(Parse(MakeElf(segments, 0x1000000)));
  EXPECT_OK(ParseChanged([](auto& f) { Segment(f, 1)->p_type = PT_NOTE; }));
}

TEST(ElfTest, NamesAWrongArchitecture) {
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_machine = EM_AARCH64; }),
              IsInvalid("built for arm64"));
  EXPECT_THAT(ParseChanged([](auto& f) {
                f[EI_CLASS] = ELFCLASS32;
                Header(f)->e_machine = EM_386;
              }),
              IsInvalid("built for 32-bit x86, not a 64-bit file"));
  EXPECT_THAT(ParseChanged([](auto& f) { f[EI_DATA] = ELFDATA2MSB; }),
              IsInvalid("little-endian"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_machine = 4711; }),
              IsInvalid("machine number 4711"));
}

TEST(ElfTest, RefusesWhatIsNoKernel) {
  EXPECT_THAT(Parse({}), IsInvalid("no ELF header"));
  EXPECT_THAT(ParseChanged([](auto& f) { f[0] = 0; }),
              IsInvalid("no ELF header"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_type = ET_REL; }),
              IsInvalid("not an executable"));
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 1)->p_type = PT_INTERP; }),
              IsInvalid("dynamic linker"));
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 1)->p_type = PT_TLS; }),
              IsInvalid("thread-local"));
  EXPECT_THAT(ParseChanged([](auto& f) {
                Segment(f, 0)->p_type = PT_NOTE;
                Segment(f, 1)->p_type = PT_NOTE;
              }),
              IsInvalid("nothing to load"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_version = 2; }),
              IsInvalid("ELF version"));
}

TEST(ElfTest, ChecksTheProgramHeaderTable) {
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_phnum = 0; }),
              IsInvalid("no program headers"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_phnum = 0xffff; }),
              IsInvalid("65535 program headers"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_phentsize = 32; }),
              IsInvalid("of 32 bytes"));
  EXPECT_THAT(ParseChanged([](auto& f) { Header(f)->e_phoff = UINT64_MAX; }),
              IsInvalid("truncated"));
  EXPECT_THAT(
      ParseChanged([](auto& f) { Header(f)->e_phoff = f.size() - 111; }),
      IsInvalid("truncated"));
}

TEST(ElfTest, ChecksSegments) {
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 0)->p_memsz = 63; }),
              IsInvalid("64 bytes in the file but 63"));
  EXPECT_THAT(
      ParseChanged([](auto& f) { Segment(f, 0)->p_offset = UINT64_MAX; }),
      IsInvalid("truncated"));
  EXPECT_THAT(ParseChanged([](auto& f) {
                Segment(f, 0)->p_memsz = UINT64_MAX;
                Segment(f, 0)->p_filesz = UINT64_MAX - 4;
                Segment(f, 0)->p_paddr = 0;
              }),
              IsInvalid("truncated"));
  EXPECT_THAT(
      ParseChanged([](auto& f) { Segment(f, 1)->p_paddr = 0 - 0xfffull; }),
      IsInvalid("wraps"));
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 0)->p_memsz = 0x200001; }),
              IsInvalid("overlap"));
  EXPECT_OK(ParseChanged([](auto& f) { Segment(f, 0)->p_memsz = 0x200000; }));
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 0)->p_align = 0x1000; }),
              IsInvalid("not aligned"));
  EXPECT_THAT(ParseChanged([](auto& f) { Segment(f, 0)->p_align = 3; }),
              IsInvalid("not aligned"));
}

TEST(ElfTest, EveryTruncationIsAnError) {
  const std::vector<uint8_t> file = MakeVmlinux();
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_THAT(Parse({file.begin(), file.begin() + length}), IsInvalid("ELF"))
        << length;
  }
}

TEST(ElfTest, RandomChangesGiveAnErrorOrAConsistentKernel) {
  const std::vector<uint8_t> file = MakeVmlinux();
  std::mt19937_64 random(7);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> bad = file;
    for (uint64_t n = random() % 4 + 1; n > 0; --n) {
      bad[random() % bad.size()] = static_cast<uint8_t>(random());
    }
    absl::StatusOr<ElfKernel> kernel = Parse(bad);
    if (!kernel.ok()) {
      EXPECT_THAT(kernel, IsInvalid("ELF image: "));
      continue;
    }
    ++accepted;
    bool entry_loaded = false;
    for (const ElfSegment& segment : kernel->segments) {
      EXPECT_GE(segment.memory_size, segment.data.size());
      auto offset = kernel->entry.OffsetFrom(segment.gpa);
      entry_loaded |= offset && *offset < segment.data.size();
    }
    EXPECT_TRUE(entry_loaded);
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace cloister::boot
