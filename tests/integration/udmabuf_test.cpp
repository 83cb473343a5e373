#include "allocator_checks.hpp"

#include <dmaflow/udmabuf.hpp>

#include <fstream>
#include <memory>
#include <string>

#include <linux/udmabuf.h>

namespace dmaflow {
namespace {

using test::must;
using test::request_of;

constexpr const char* size_limit = "/sys/module/udmabuf/parameters/size_limit_mb";

std::string read_text(const char* path) {
  std::string text;
  std::ifstream(path) >> text;
  return text;
}

/// The default limit of kernels before 7.3, which has none by default.
class LimitOf64 {
 public:
  LimitOf64() { std::ofstream(size_limit) << 64; }
  ~LimitOf64() { std::ofstream(size_limit) << before_; }
  LimitOf64(const LimitOf64&) = delete;
  LimitOf64& operator=(const LimitOf64&) = delete;
  /// Whether the driver accepted it.
  [[nodiscard]] static bool is_set() { return read_text(size_limit) == "64"; }

 private:
  std::string before_ = read_text(size_limit);
};

class Udmabuf : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = udmabuf::Allocator::open();
    if (!opened && !test::in_lab()) GTEST_SKIP() << opened.error().message();
    udmabuf_ = must(std::move(opened), "open");
  }
  std::unique_ptr<udmabuf::Allocator> udmabuf_;
};

TEST_F(Udmabuf, SaysWhatItsMemoryIsLike) {
  EXPECT_EQ(udmabuf_->name(), "udmabuf");
  EXPECT_FALSE(udmabuf_->traits().contiguous);
  EXPECT_TRUE(udmabuf_->traits().cached);
  EXPECT_FALSE(udmabuf_->traits().is_protected);
}

TEST_F(Udmabuf, MakesBuffersOfCommonFormats) { test::expect_buffers_of_common_formats(*udmabuf_, "udmabuf"); }
TEST_F(Udmabuf, MemoryIsZeroed) { test::expect_zeroed_memory(*udmabuf_); }
TEST_F(Udmabuf, RefusesWhatNobodyCanMeet) { test::expect_refusals(*udmabuf_); }
TEST_F(Udmabuf, MakesOpaqueBuffers) { test::expect_opaque_buffers(*udmabuf_); }

TEST_F(Udmabuf, SizesAreRoundedUpToWholePages) {
  const auto buffers = must(udmabuf_->allocate(request_of(formats::r8, {1, 1})), "allocate");
  EXPECT_EQ(buffers[0].size(0), test::page_size());
}

TEST_F(Udmabuf, KeepsNothingButTheDmaBufs) {
  const auto before = test::open_fds();
  const auto buffers = must(udmabuf_->allocate(request_of(formats::xrgb8888, {64, 64}, 4)), "allocate");
  EXPECT_EQ(test::open_fds().size(), before.size() + 4) << "the memfds are closed";
}

TEST_F(Udmabuf, NothingIsLeftBehindWhicheverCallFails) {
  Request request = request_of(formats::nv12, {640, 480}, 2);
  request.constraints.separate_objects = true;
  test::expect_no_leak_whichever_call_fails([&]() -> Result<std::vector<Buffer>> {
    auto opened = udmabuf::Allocator::open();
    if (!opened) return std::unexpected(opened.error());
    return (*opened)->allocate(request);
  });
}

TEST_F(Udmabuf, OldKernelsWithoutNoexecSealsAreServedToo) {
  const test::FailNth no_such_flag(1, EINVAL, "memfd_create");
  EXPECT_TRUE(udmabuf_->allocate(request_of(formats::xrgb8888, {64, 64})));
  EXPECT_EQ(no_such_flag.calls(), 2U);
}

TEST_F(Udmabuf, OverTheDriversLimitNamesItAndHowToRaiseIt) {
  if (!test::in_lab()) GTEST_SKIP() << "this machine's limit may be another";
  const test::LeakCheck leaks;
  const LimitOf64 limited;
  if (!LimitOf64::is_set()) GTEST_SKIP() << "this kernel's udmabuf has no limit that can be set";
  const Request request = request_of(formats::xrgb8888, {4352, 4096});  // 68 MiB
  const auto result = udmabuf_->allocate(request);
  test::observe("udmabuf, over its limit", result ? "takes it" : test::outcome(result.error()));
  if (result) GTEST_SKIP() << "this kernel's udmabuf does not keep to its limit";
  EXPECT_TRUE(test::mentions(result.error(), "size_limit_mb of 64")) << result.error().message();
  EXPECT_TRUE(test::mentions(result.error(), size_limit)) << result.error().message();

  std::ofstream(size_limit) << 128;
  EXPECT_TRUE(udmabuf_->allocate(request)) << "what the error recommends helps";
}

TEST_F(Udmabuf, ExactlyTheLimitIsLeftToTheDriver) {
  if (!test::in_lab()) GTEST_SKIP() << "this machine's limit may be another";
  const LimitOf64 limited;
  if (!LimitOf64::is_set()) GTEST_SKIP() << "this kernel's udmabuf has no limit that can be set";
  const test::CountCalls created("ioctl", UDMABUF_CREATE);
  const auto result = udmabuf_->allocate(request_of(formats::xrgb8888, {4096, 4096}));  // 64 MiB
  EXPECT_EQ(created.calls(), 1U) << "the driver is asked";
  test::observe("udmabuf takes exactly its limit", result.has_value());
  if (!result) {
    EXPECT_EQ(result.error().operation(), "UDMABUF_CREATE") << result.error().message();
    EXPECT_TRUE(test::mentions(result.error(), "67108864")) << result.error().message();
  }
}

TEST_F(Udmabuf, TheLargestFrameIsRefusedWithoutUsingMemory) {
  if (!test::in_lab()) GTEST_SKIP() << "this machine's limit may be another";
  const test::LeakCheck leaks;
  const LimitOf64 limited;
  if (!LimitOf64::is_set()) GTEST_SKIP() << "this kernel's udmabuf has no limit that can be set";
  const auto result = udmabuf_->allocate(request_of(formats::xrgb8888, {16384, 16384}));
  if (result) GTEST_SKIP() << "this kernel's udmabuf does not keep to its limit";
  EXPECT_TRUE(test::mentions(result.error(), "1073741824")) << result.error().message();
}

TEST_F(Udmabuf, MoreThanTheMachinesMemoryIsEnomemAndKillsNobody) {
  if (!test::in_lab()) GTEST_SKIP() << "a mistake would cost this machine its memory";
  const test::LeakCheck leaks;
  constexpr std::uint64_t each = 268435456;  // 256 MiB
  const std::uint32_t count = test::more_than_the_memory(each);
  if (count == 0) GTEST_SKIP() << "no request is larger than this machine's memory";
  const auto result = udmabuf_->allocate(request_of(formats::xrgb8888, {8192, 8192}, count));
  ASSERT_TRUE(test::fails_with(result, ENOMEM));
  EXPECT_TRUE(test::mentions(result.error(), std::to_string(count * each))) << result.error().message();
}

TEST_F(Udmabuf, AHugeCapacityIsRefusedNotWrapped) {
  Request request = request_of(formats::h264, {640, 480});
  for (const std::uint64_t bytes : {~std::uint64_t{0}, ~std::uint64_t{0} >> 1U, std::uint64_t{1} << 62U}) {
    request.opaque_bytes = bytes;
    EXPECT_FALSE(udmabuf_->allocate(request)) << bytes;
  }
}

TEST_F(Udmabuf, NoPermissionNamesTheGroupThatMayAndJoiningItHelps) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users and permissions";
  const auto open = [] {
    const auto result = udmabuf::Allocator::open();
    return result ? std::string("opened") : result.error().message();
  };
  const std::string said = test::as_user(1000, {1000}, open);
  EXPECT_NE(said.find("EACCES"), std::string::npos) << said;
  EXPECT_NE(said.find("usermod -aG kvm"), std::string::npos) << said;
  const group* kvm = ::getgrnam("kvm");
  ASSERT_NE(kvm, nullptr);
  EXPECT_EQ(test::as_user(1000, {1000, kvm->gr_gid}, open), "opened");
}

}  // namespace
}  // namespace dmaflow
