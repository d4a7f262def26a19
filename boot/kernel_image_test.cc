// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/kernel_image.h"

#include <cstring>
#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_compress.h"
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

absl::StatusOr<KernelImage> Parse(std::vector<uint8_t> file) {
  return ParseKernel(SharedBytes(std::move(file)));
}

// 256 bytes that hold `magic` at `offset`.
std::vector<uint8_t> FileWith(size_t offset, const std::string& magic) {
  std::vector<uint8_t> file(256);
  std::memcpy(file.data() + offset, magic.data(), magic.size());
  return file;
}

auto IsInvalid(const std::string& text) {
  return StatusIs(absl::StatusCode::kInvalidArgument,
                  AllOf(HasSubstr(text), Not(HasSubstr("\n"))));
}

TEST(ParseKernelTest, ABzImage) {
  ASSERT_OK_AND_ASSIGN(KernelImage kernel,
                       Parse(MakeBzImage(Compression::kLz4, MakeVmlinux())));
  EXPECT_EQ(kernel.elf.entry, GuestAddress(0x1000000));
  EXPECT_EQ(kernel.elf.segments.size(), 2u);
  EXPECT_TRUE(kernel.setup_header.has_value());
  EXPECT_EQ(kernel.version, "6.1.0-fake (test)");
}

TEST(ParseKernelTest, AVmlinux) {
  ASSERT_OK_AND_ASSIGN(KernelImage kernel, Parse(MakeVmlinux()));
  EXPECT_EQ(kernel.elf.segments.size(), 2u);
  EXPECT_FALSE(kernel.setup_header.has_value());
}

TEST(ParseKernelTest, TheRelocationTableAfterThePayloadsElfIsIgnored) {
  std::vector<uint8_t> elf = MakeVmlinux();
  elf.resize(elf.size() + 400, 0xee);
  EXPECT_OK(Parse(MakeBzImage(Compression::kZstd, elf)));
}

TEST(ParseKernelTest, ThePayloadMustBeAKernel) {
  std::vector<uint8_t> not_elf(100, 'x');
  EXPECT_THAT(Parse(MakeBzImage(Compression::kZstd, not_elf)),
              IsInvalid("no ELF header"));
}

TEST(ParseKernelTest, SaysWhatOtherFilesAre) {
  EXPECT_THAT(Parse(FileWith(56, "ARM\x64")), IsInvalid("arm64"));
  EXPECT_THAT(Parse(FileWith(56, "RSC\x05")), IsInvalid("RISC-V"));
  std::vector<uint8_t> zboot = FileWith(4, "zimg");
  zboot[0] = 'M';
  zboot[1] = 'Z';
  EXPECT_THAT(Parse(zboot), IsInvalid("EFI zboot"));
  EXPECT_THAT(Parse(FileWith(0, "MZ")), IsInvalid("EFI program"));
  EXPECT_THAT(Parse(FileWith(0, "070701")), IsInvalid("cpio archive"));
  EXPECT_THAT(Parse(FileWith(0, "#!/bin/sh\n")),
              IsInvalid("not a bzImage or ELF vmlinux"));
  EXPECT_THAT(Parse({'x'}), IsInvalid("not a bzImage"));
}

TEST(ParseKernelTest, NamesTheCompressionOfCompressedFiles) {
  for (Compression compression : kSupportedCompressions) {
    EXPECT_THAT(
        Parse(Compress(compression, MakeVmlinux())),
        IsInvalid(std::string(CompressionName(compression)) + "-compressed"));
  }
}

}  // namespace
}  // namespace cloister::boot
