#include "fake.hpp"

#include <dmaflow/allocator.hpp>

#include <cerrno>
#include <string>

#include <gtest/gtest.h>

namespace dmaflow {
namespace {

constexpr std::uint32_t most = 64;

Request request_of(PixelFormat format, Size size, std::uint32_t count = 1) {
  Request request;
  request.format = format;
  request.size = size;
  request.count = count;
  return request;
}

std::string refusal(const Result<void>& result) {
  if (result) return "";
  EXPECT_EQ(result.error().code(), EINVAL);
  EXPECT_EQ(result.error().device(), "heap:system");
  return std::string(result.error().detail());
}

TEST(CheckRequest, TakesWhatCanBeMet) {
  EXPECT_TRUE(check_request(request_of(formats::xrgb8888, {1, 1}), "heap:system"));
  EXPECT_TRUE(check_request(request_of(formats::nv12, {16384, 16384}, most), "heap:system"));
}

TEST(CheckRequest, RefusesCountsWithTheLimits) {
  for (const std::uint32_t count : {0U, most + 1, 1000U}) {
    const std::string said = refusal(check_request(request_of(formats::xrgb8888, {640, 480}, count), "heap:system"));
    EXPECT_NE(said.find(std::to_string(count)), std::string::npos) << said;
    EXPECT_NE(said.find("64"), std::string::npos) << said;
  }
}

TEST(CheckRequest, RefusesSizesWithTheLimits) {
  for (const Size size : {Size{0, 480}, Size{640, 0}, Size{16385, 1}, Size{1, 4'000'000'000}}) {
    const std::string said = refusal(check_request(request_of(formats::xrgb8888, size), "heap:system"));
    EXPECT_NE(said.find(std::to_string(size.width)), std::string::npos) << said;
    EXPECT_NE(said.find("16384"), std::string::npos) << said;
  }
}

TEST(CheckRequest, RefusesNoFormatAndNoModifier) {
  EXPECT_NE(refusal(check_request(request_of({}, {640, 480}), "heap:system")), "");
  Request request = request_of(formats::xrgb8888, {640, 480});
  request.modifiers.clear();
  EXPECT_NE(refusal(check_request(request, "heap:system")), "");
}

TEST(LinearLayout, IsLinearOrRefused) {
  Request request = request_of(formats::xrgb8888, {640, 480});
  EXPECT_TRUE(linear_layout(request, "udmabuf")->modifier.is_linear());
  request.modifiers = {Modifier::from_value(1ULL << 56U | 1), Modifier::linear()};
  EXPECT_TRUE(linear_layout(request, "udmabuf")->modifier.is_linear());

  request.modifiers = {Modifier::implicit()};
  const auto implicit = linear_layout(request, "udmabuf");
  ASSERT_FALSE(implicit) << "INVALID never becomes LINEAR";
  EXPECT_EQ(implicit.error().device(), "udmabuf");
  EXPECT_NE(implicit.error().detail().find("INVALID"), std::string_view::npos) << implicit.error().message();
}

TEST(LinearLayout, OpaqueFormatsTakeTheirCapacity) {
  Request request = request_of(formats::mjpeg, {1280, 720});
  EXPECT_FALSE(linear_layout(request, "udmabuf")) << "no capacity given";
  request.opaque_bytes = 500'000;
  EXPECT_EQ(linear_layout(request, "udmabuf")->opaque_bytes, 500'000U);
}

TEST(LinearLayout, ARefusalNamesTheAllocator) {
  const auto layout = linear_layout(request_of(PixelFormat::of('Z', 'Z', 'Z', 'Z'), {640, 480}), "udmabuf");
  ASSERT_FALSE(layout);
  EXPECT_EQ(layout.error().device(), "udmabuf");
  EXPECT_NE(layout.error().detail().find("ZZZZ"), std::string_view::npos) << layout.error().message();
}

class FirstThatWorks : public testing::Test {
 protected:
  using Opened = Result<std::unique_ptr<Allocator>>;
  static Opened opens(const char* name, std::optional<Error> refusal = {}) {
    auto allocator = std::make_unique<test::FakeAllocator>(name);
    allocator->refusal = refusal;
    return allocator;
  }
  static Opened does_not_open(int code, const char* device, const char* help) {
    return std::unexpected(Error::os(code, "open", device).detail("%s", help));
  }
  template <typename... Each>
  static Opened first_of(Each... each) {
    std::vector<Opened> all;
    (all.push_back(std::move(each)), ...);
    return first_that_works(std::move(all));
  }
  test::PretendDmaBufs pretend;
};

TEST_F(FirstThatWorks, IsFoundByTrying) {
  EXPECT_EQ(test::must(first_of(opens("heap"), opens("udmabuf")))->name(), "heap");
  EXPECT_EQ(test::must(first_of(does_not_open(EACCES, "/dev/dma_heap/system", ""), opens("udmabuf")))->name(),
            "udmabuf");
  const Error no_heap = Error::os(ENOTTY, "DMA_HEAP_IOCTL_ALLOC", "heap");
  EXPECT_EQ(test::must(first_of(opens("heap", no_heap), opens("udmabuf")))->name(), "udmabuf")
      << "one that opens and makes no buffer does not work";
}

TEST_F(FirstThatWorks, WhereNoneDoesTheErrorHasEveryReasonAndWhatToDo) {
  const auto none = first_of(does_not_open(EACCES, "/dev/dma_heap/system", "a udev rule helps"),
                             does_not_open(ENOENT, "/dev/udmabuf", "load the driver"));
  ASSERT_TRUE(test::fails_with(none, ENOENT));
  for (const char* words :
       {"no allocator gives memory", "/dev/dma_heap/system", "a udev rule helps", "/dev/udmabuf", "load the driver"}) {
    EXPECT_TRUE(test::mentions(none.error(), words)) << none.error().message();
  }
  EXPECT_TRUE(test::fails_with(first_that_works({}), ENOTSUP));
}

}  // namespace
}  // namespace dmaflow
