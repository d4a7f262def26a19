// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/disk_test_file.h"

namespace cloister::devices::virtio {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = 1 << 20;

// Every refusal is one line that names the file.
auto Refuses(absl::StatusCode code, const std::string& path,
             const std::string& why) {
  return StatusIs(code,
                  AllOf(HasSubstr(path), HasSubstr(why), Not(HasSubstr("\n"))));
}

TEST(DiskFileTest, OpensAFile) {
  DiskTestFile image(kMiB);
  ASSERT_OK_AND_ASSIGN(auto file, DiskFile::Open({image.path()}));
  EXPECT_EQ(file->size(), kMiB);
  EXPECT_EQ(file->logical_block(), 512u);
  EXPECT_EQ(file->memory_alignment(), 1u);
  EXPECT_GE(file->physical_block(), 512u);
  EXPECT_FALSE(file->is_block_device());
  EXPECT_EQ(fcntl(file->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(fcntl(file->fd(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(file->fd(), F_GETFL) & O_ACCMODE, O_RDWR);
}

TEST(DiskFileTest, ReadOnlyIsReadOnly) {
  DiskTestFile image(kMiB);
  ASSERT_OK_AND_ASSIGN(auto file, DiskFile::Open({image.path(), true}));
  EXPECT_EQ(fcntl(file->fd(), F_GETFL) & O_ACCMODE, O_RDONLY);
}

TEST(DiskFileTest, NamesWhatIsNotThere) {
  EXPECT_THAT(DiskFile::Open({"/nonexistent/disk.img"}),
              Refuses(absl::StatusCode::kNotFound, "disk /nonexistent/disk.img",
                      "No such file"));
}

TEST(DiskFileTest, NamesWhatIsNoDisk) {
  EXPECT_THAT(DiskFile::Open({"/tmp"}),
              Refuses(absl::StatusCode::kInvalidArgument, "disk /tmp",
                      "neither a file nor a block device"));
  EXPECT_THAT(DiskFile::Open({"/dev/zero"}),
              Refuses(absl::StatusCode::kInvalidArgument, "/dev/zero",
                      "neither a file nor a block device"));
  // A pipe must not make it wait.
  std::string pipe = absl::StrCat(::testing::TempDir(), "/disk-pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(DiskFile::Open({pipe}),
              Refuses(absl::StatusCode::kInvalidArgument, pipe, "neither"));
  unlink(pipe.c_str());
}

TEST(DiskFileTest, NamesWhatIsReadOnly) {
  DiskTestFile image(kMiB);
  ASSERT_EQ(chmod(image.path().c_str(), 0444), 0);
  EXPECT_THAT(DiskFile::Open({image.path()}),
              Refuses(absl::StatusCode::kPermissionDenied, image.path(),
                      "is read-only (mode 0444)"));
  EXPECT_OK(DiskFile::Open({image.path(), true}));
}

TEST(DiskFileTest, NamesBadSizes) {
  DiskTestFile empty(0);
  EXPECT_THAT(
      DiskFile::Open({empty.path()}),
      Refuses(absl::StatusCode::kFailedPrecondition, empty.path(), "is empty"));
  DiskTestFile odd(1000);
  EXPECT_THAT(DiskFile::Open({odd.path()}),
              Refuses(absl::StatusCode::kFailedPrecondition, odd.path(),
                      "1000 bytes is no multiple of 512"));
}

TEST(DiskFileTest, NamesOtherFormatsAndTheConversion) {
  DiskTestFile qcow2(std::string("QFI\xfb\0\0\0\3", 8) +
                     std::string(65528, '\0'));
  EXPECT_THAT(
      DiskFile::Open({qcow2.path()}),
      Refuses(absl::StatusCode::kInvalidArgument, qcow2.path(),
              absl::StrCat("is a qcow2 image, only raw ones work; convert it: "
                           "qemu-img convert -f qcow2 -O raw '",
                           qcow2.path(), "' '", qcow2.path(), ".raw'")));
  DiskTestFile vhd(std::string(65536, '\0') + "conectix" +
                   std::string(504, '\0'));
  EXPECT_THAT(DiskFile::Open({vhd.path(), true}),
              Refuses(absl::StatusCode::kInvalidArgument, vhd.path(),
                      "is a vpc image"));
  DiskTestFile small(std::string("KDMV") + std::string(508, '\0'));
  EXPECT_THAT(DiskFile::Open({small.path()}),
              Refuses(absl::StatusCode::kInvalidArgument, small.path(),
                      "is a vmdk image"));
}

TEST(DiskFileTest, WritersShareWithNobody) {
  DiskTestFile image(kMiB);
  ASSERT_OK_AND_ASSIGN(auto writer, DiskFile::Open({image.path()}));
  EXPECT_THAT(DiskFile::Open({image.path()}),
              Refuses(absl::StatusCode::kUnavailable, image.path(),
                      "is locked by another program"));
  EXPECT_THAT(DiskFile::Open({image.path(), true}),
              Refuses(absl::StatusCode::kUnavailable, image.path(),
                      "is locked by a program that writes to it"));
  writer.reset();
  ASSERT_OK_AND_ASSIGN(auto reader, DiskFile::Open({image.path(), true}));
  ASSERT_OK_AND_ASSIGN(auto another, DiskFile::Open({image.path(), true}));
  EXPECT_THAT(DiskFile::Open({image.path()}),
              Refuses(absl::StatusCode::kUnavailable, image.path(), "locked"));
}

TEST(DiskFileTest, RespectsLocksOfEitherKind) {
  DiskTestFile image(kMiB);
  {
    base::UniqueFd other(open(image.path().c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_THAT(DiskFile::Open({image.path()}),
                Refuses(absl::StatusCode::kUnavailable, image.path(),
                        "locked by another program"));
  }
  {
    // Some bytes are enough: that is how other monitors do it.
    base::UniqueFd other(open(image.path().c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock = {};
    lock.l_type = F_RDLCK;
    lock.l_start = 100;
    lock.l_len = 1;
    ASSERT_EQ(fcntl(other.get(), F_OFD_SETLK, &lock), 0);
    EXPECT_THAT(DiskFile::Open({image.path()}),
                Refuses(absl::StatusCode::kUnavailable, image.path(),
                        "locked by another program"));
    EXPECT_OK(DiskFile::Open({image.path(), true}));
  }
  EXPECT_OK(DiskFile::Open({image.path()}));
}

TEST(DiskFileTest, DirectSaysWhatItNeeds) {
  DiskTestFile image(kMiB);
  auto file = DiskFile::Open({image.path(), false, true});
  if (!file.ok()) {
    // tmpfs before Linux 6.6 has no O_DIRECT: the message must say so.
    EXPECT_THAT(file, StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("O_DIRECT")));
    GTEST_SKIP() << "no O_DIRECT here: " << file.status();
  }
  EXPECT_GT((*file)->memory_alignment(), 1u);
  EXPECT_EQ((*file)->size() % (*file)->logical_block(), 0u);
}

TEST(DiskFileTest, RefreshesItsSize) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  EXPECT_THAT(file->RefreshSize(), IsOkAndHolds(false));
  image.Resize(2 * kMiB);
  EXPECT_EQ(file->size(), kMiB);
  EXPECT_THAT(file->RefreshSize(), IsOkAndHolds(true));
  EXPECT_EQ(file->size(), 2 * kMiB);
  image.Resize(100);
  EXPECT_THAT(file->RefreshSize(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(file->size(), 2 * kMiB);
}

TEST(DiskFileTest, KnowsItselfByAnyName) {
  DiskTestFile image(kMiB);
  DiskTestFile other(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  std::string alias = image.path() + "-alias";
  ASSERT_EQ(symlink(image.path().c_str(), alias.c_str()), 0);
  EXPECT_TRUE(file->IsSameFile(image.path()));
  EXPECT_TRUE(file->IsSameFile(alias));
  EXPECT_FALSE(file->IsSameFile(other.path()));
  EXPECT_FALSE(file->IsSameFile("/nonexistent"));
  unlink(alias.c_str());
}

TEST(DiskFileTest, NoticesWhatWasCutOff) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  EXPECT_EQ(file->CheckPresent(0, kMiB), 0);
  EXPECT_EQ(file->CheckPresent(kMiB, 0), 0);
  image.Resize(4096);
  EXPECT_EQ(file->CheckPresent(0, 4096), 0);
  EXPECT_EQ(file->CheckPresent(0, 4097), EIO);
  EXPECT_EQ(file->CheckPresent(512, 4096), EIO);
  EXPECT_EQ(file->CheckPresent(UINT64_MAX, 2), EIO);
  EXPECT_EQ(file->Discard(4096, 4096), EIO);
  EXPECT_EQ(file->WriteZeroes(4096, 4096, true), EIO);
  EXPECT_EQ(image.Read(0, kMiB).size(), 4096u);  // nothing made it longer
}

TEST(DiskFileTest, DiscardGivesStorageBack) {
  DiskTestFile image(DiskTestPattern(kMiB, 1));
  std::shared_ptr<DiskFile> file = image.Open();
  const uint64_t before = image.Allocated();
  EXPECT_EQ(file->Discard(65536, 65536), 0);
  EXPECT_LE(image.Allocated(), before - 65536);
  EXPECT_EQ(image.Read(0, 65536), DiskTestPattern(kMiB, 1).substr(0, 65536));
  EXPECT_EQ(image.Read(131072, kMiB), DiskTestPattern(kMiB, 1).substr(131072));
}

TEST(DiskFileTest, WriteZeroesMakesZeros) {
  for (bool unmap : {false, true}) {
    const std::string content = DiskTestPattern(kMiB, 2);
    DiskTestFile image(content);
    std::shared_ptr<DiskFile> file = image.Open();
    // More than one chunk, and no multiple of a page, for the slow way.
    EXPECT_EQ(file->WriteZeroes(512, 200 * 1024 + 512, unmap), 0);
    EXPECT_EQ(image.Read(0, 512), content.substr(0, 512));
    EXPECT_EQ(image.Read(512, 200 * 1024 + 512),
              std::string(200 * 1024 + 512, '\0'));
    EXPECT_EQ(image.Read(201 * 1024, kMiB), content.substr(201 * 1024));
  }
}

TEST(DiskFileTest, AFlushThatFailedStaysFailed) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  EXPECT_EQ(file->Flush(), 0);
  EXPECT_EQ(file->FinishFlush(EIO), EIO);
  // The kernel reports a lost page once; the guest must hear of it for good.
  EXPECT_EQ(file->Flush(), EIO);
  EXPECT_EQ(file->FinishFlush(ENOSPC), EIO);
  file.reset();
  file = image.Open();
  EXPECT_EQ(file->Flush(), 0);
}

}  // namespace
}  // namespace cloister::devices::virtio
