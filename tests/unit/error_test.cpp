#include "errno_name.hpp"

#include <dmaflow/error.hpp>

#include <cerrno>
#include <climits>
#include <string>

#include <gtest/gtest.h>

namespace dmaflow {
namespace {

TEST(Error, MessageNamesDeviceCallReasonAndWhatHelps) {
  const Error error = Error::os(EBUSY, "VIDIOC_QBUF", "/dev/video0 (vivid)").detail("buffer %d is queued already", 3);
  EXPECT_EQ(error.message(),
            "/dev/video0 (vivid): VIDIOC_QBUF: Device or resource busy (EBUSY): buffer 3 is queued already");
}

TEST(Error, MessageLeavesOutWhatIsEmpty) {
  EXPECT_EQ(Error::os(ENOENT, "open").message(), "open: No such file or directory (ENOENT)");
  EXPECT_EQ(Error::os(ENOENT, "").message(), "No such file or directory (ENOENT)");
  EXPECT_EQ(Error::os(ENOENT, nullptr).message(), "No such file or directory (ENOENT)");
}

TEST(Error, UnknownErrnoIsStillReadable) { EXPECT_EQ(Error::os(5000, "ioctl").message(), "ioctl: unknown error 5000"); }

#ifdef DMAFLOW_HAS_STRERRORNAME
TEST(Error, TheTableForOtherCLibrariesHasTheNamesOfGlibc) {
  for (int code = -1; code < 600; ++code) {
    EXPECT_STREQ(detail::errno_name_by_table(code), code == 0 ? nullptr : ::strerrorname_np(code)) << code;
  }
}
#endif

TEST(Error, OsCodeIsNeverZeroNorNegative) {
  EXPECT_EQ(Error::os(0, "ioctl").code(), EIO);
  EXPECT_EQ(Error::os(-EINVAL, "ioctl").code(), EINVAL);
  EXPECT_EQ(Error::os(INT_MIN, "ioctl").code(), EIO);
}

TEST(Error, VulkanResultsHaveTheirNames) {
  const Error error = Error::vulkan(-4, "vkQueueSubmit", "lavapipe");
  EXPECT_EQ(error.domain(), ErrorDomain::vulkan);
  EXPECT_EQ(error.code(), -4);
  EXPECT_EQ(error.message(), "lavapipe: vkQueueSubmit: VK_ERROR_DEVICE_LOST");
  EXPECT_EQ(Error::vulkan(-777, "vkQueueSubmit").message(), "vkQueueSubmit: VkResult -777");
}

TEST(Error, LongTextIsCutNotOverrun) {
  const std::string longer(10'000, 'x');
  Error error = Error::os(EIO, "read", longer).detail("%s", longer.c_str());
  EXPECT_GT(error.device().size(), 50U);
  EXPECT_LT(error.device().size(), 200U);
  EXPECT_EQ(error.device().find_first_not_of('x'), std::string_view::npos);
  EXPECT_GT(error.detail().size(), 300U);
  EXPECT_LT(error.detail().size(), 1000U);
  EXPECT_EQ(error.detail().find_first_not_of('x'), std::string_view::npos);
}

TEST(Error, DetailMayBeBuiltFromTheOldDetail) {
  Error error = Error::os(EINVAL, "allocate").detail("too big");
  error.detail("%s; try a smaller size", error.detail().data());
  EXPECT_EQ(error.detail(), "too big; try a smaller size");
}

TEST(Error, AnOuterLayerMayNameTheDevice) {
  Error error = Error::os(EINVAL, "Layout::linear");
  error.device("heap:system");
  EXPECT_EQ(error.device(), "heap:system");
  error.device(error.device().substr(0, 4));
  EXPECT_EQ(error.device(), "heap");
}

TEST(Error, CopiesAreIndependent) {
  Error first = Error::os(EINVAL, "ioctl", "a");
  const Error second = first;
  first.device("b");
  EXPECT_EQ(second.device(), "a");
}

}  // namespace
}  // namespace dmaflow
