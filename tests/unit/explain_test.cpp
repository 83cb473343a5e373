// The output of explain() for plans and refusals: a short text, all details on request, and JSON for programs.
#include "fake.hpp"

#include <dmaflow/negotiate.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using Json = nlohmann::json;

/// A camera that another program streams from.
class BusyCamera : public FakeSource {
 public:
  using FakeSource::FakeSource;
  [[nodiscard]] Result<void> set_output(const StreamConfig& /*config*/) override {
    return std::unexpected(Error::os(EBUSY, "VIDIOC_S_FMT", "/dev/video0 (fake)")
                               .detail("it is in use: another program streams from it; close that one"));
  }
};

/// Many streams: each of a few formats in several sizes.
std::vector<StreamConfig> streams(std::size_t count, std::vector<PixelFormat> formats) {
  std::vector<StreamConfig> result;
  for (std::size_t i = 0; i < count; ++i) {
    result.push_back(small_config(formats[i % formats.size()], {64, static_cast<std::uint32_t>(48 + 2 * i)}));
  }
  return result;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }
std::ptrdiff_t lines(const std::string& text) { return std::ranges::count(text, '\n'); }

testing::AssertionResult has(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in:\n" << text;
}

class ExplainTest : public testing::Test {
 protected:
  [[nodiscard]] Link link(FakeSource& source) {
    return {.producer = &source, .consumers = {&display}, .allocators = {&heap, &cma}};
  }
  [[nodiscard]] Refused refused(FakeSource& source) {
    const auto plan = negotiate(link(source));
    EXPECT_FALSE(plan);
    return plan.error();
  }

  PretendDmaBufs pretend;
  FakeSink display;
  FakeAllocator heap{"heap"};
  FakeAllocator cma{"cma", {.contiguous = true}};
  FakeAllocator of_display{"display"};
};

TEST_F(ExplainTest, ABusyCameraIsOneSentenceHoweverManyStreamsItHas) {
  BusyCamera camera(streams(30, {formats::xrgb8888, formats::yuyv, formats::uyvy}));
  const Refused busy = refused(camera);
  EXPECT_EQ(busy.error.code(), EBUSY) << "a program can wait for that";
  const std::string text = busy.explain();
  EXPECT_TRUE(has(first_line(text), "/dev/video0 (fake): VIDIOC_S_FMT: Device or resource busy (EBUSY): it is in use"));
  EXPECT_TRUE(has(first_line(text), "close that one"));
  EXPECT_TRUE(has(text, "10 of 30 refused (XRGB8888), as said above"));
  EXPECT_TRUE(has(text, "20 of 30 refused (YUYV, UYVY): display: check"));
  EXPECT_EQ(lines(text), 3) << text;
}

TEST_F(ExplainTest, TheCauseIsTheMostFrequentOfThoseThatCameFurthest) {
  FakeSource camera(streams(20, {formats::yuyv, formats::xrgb8888}));
  int imports = 0;
  display.on_import = [&](const Buffer&) -> Result<void> {
    if (++imports % 4 == 1) return std::unexpected(Error::os(ENOMEM, "DRM_IOCTL_GEM_OPEN", "display"));
    return std::unexpected(Error::os(ENODEV, "DRM_IOCTL_PRIME_FD_TO_HANDLE", "display").detail("use its own memory"));
  };
  const Refused all = refused(camera);
  EXPECT_EQ(all.error.code(), ENOTSUP);
  const std::string text = all.explain();
  EXPECT_TRUE(has(first_line(text), "no memory suits every device without a copy"));
  EXPECT_TRUE(has(first_line(text), "15 of 30 candidates came furthest"));
  EXPECT_TRUE(has(first_line(text), "DRM_IOCTL_PRIME_FD_TO_HANDLE: No such device (ENODEV): use its own memory"));
  EXPECT_TRUE(has(text, "15 of 30 refused (XRGB8888 in memory of heap, cma), as said above"));
  const auto second = text.find("5 of 30 refused (XRGB8888 in memory of cma): display: DRM_IOCTL_GEM_OPEN");
  const auto last = text.find("10 of 30 refused (YUYV): display: check");
  EXPECT_NE(second, std::string::npos) << text;
  EXPECT_NE(last, std::string::npos) << text;
  EXPECT_LT(second, last) << "those that came further come first";
  EXPECT_EQ(lines(text), 4) << text;
}

/// Refuses every buffer for a different reason.
struct ManyReasons {
  explicit ManyReasons(FakeSink& display) {
    display.on_import = [this](const Buffer&) -> Result<void> {
      ++errors;
      return std::unexpected(Error::os(errors, "import", "display").detail("reason %d", errors));
    };
  }
  int errors = 0;
};

TEST_F(ExplainTest, ManyReasonsAreSevenLinesAndInFullAllOfThem) {
  FakeSource camera(streams(20, {formats::xrgb8888}));
  const ManyReasons reasons(display);
  const Refused all = refused(camera);
  ASSERT_EQ(all.candidates.size(), 40U);
  const std::string text = all.explain();
  EXPECT_EQ(lines(text), 7) << text;
  EXPECT_TRUE(has(text, "35 of 40 refused for 35 other reasons\n"));
  const std::string full = all.explain(Detail::all);
  EXPECT_EQ(lines(full), 41) << full;
  EXPECT_EQ(first_line(full), first_line(text));
  for (const Candidate& candidate : all.candidates) EXPECT_TRUE(has(full, candidate.describe()));
}

TEST_F(ExplainTest, OfAPlanTheFirstLineSaysWhatWasChosen) {
  FakeSource camera(streams(10, {formats::yuyv, formats::uyvy, formats::nv12, formats::nv21, formats::xrgb8888}));
  FakeAllocator third("third");
  display.own_allocator = &of_display;
  third.refusal = Error::os(ENOMEM, "allocate", "third");
  Link wanted = link(camera);
  wanted.allocators.push_back(&third);
  const auto plan = negotiate(wanted);
  ASSERT_TRUE(plan);
  const std::string text = plan->explain();
  EXPECT_EQ(first_line(text), plan->config.describe() + " in 5 buffers of display, no copy");
  EXPECT_TRUE(has(text, "works too, at a higher cost: memory of cma, heap\n"));
  EXPECT_TRUE(has(text, "1 of 8 refused (XRGB8888 in memory of third): third: allocate: "));
  EXPECT_TRUE(has(text, "4 of 8 refused (YUYV, UYVY, NV12, NV21): display: check"));
  EXPECT_EQ(lines(text), 4) << text;
  const std::string full = plan->explain(Detail::all);
  EXPECT_EQ(first_line(full), first_line(text));
  EXPECT_EQ(lines(full), 9) << full;
  EXPECT_TRUE(has(full, "  * " + plan->config.describe() + " in memory of display: works\n"));
  EXPECT_TRUE(has(full, "in memory of heap: works, costs more\n"));
}

TEST_F(ExplainTest, OfAPlanWithManyRefusalsItIsSevenLinesToo) {
  FakeSource camera(streams(20, {formats::xrgb8888}));
  int imports = 0;
  display.on_import = [&](const Buffer&) -> Result<void> {
    if (++imports > 30) return {};
    return std::unexpected(Error::os(imports, "import", "display"));
  };
  const auto plan = negotiate(link(camera));
  ASSERT_TRUE(plan);
  EXPECT_EQ(lines(plan->explain()), 7) << plan->explain();
  EXPECT_EQ(lines(plan->explain(Detail::all)), 1 + 32) << plan->explain(Detail::all);
}

void expect_same(const Json& json, const Candidate& candidate) {
  EXPECT_EQ(json.at("stream"), candidate.config.describe());
  EXPECT_EQ(json.at("width"), candidate.config.layout.size.width);
  EXPECT_EQ(json.at("height"), candidate.config.layout.size.height);
  EXPECT_EQ(json.at("format"), candidate.config.layout.format.name());
  EXPECT_EQ(json.at("modifier"), candidate.config.layout.modifier.name());
  EXPECT_EQ(json.at("allocator"), candidate.allocator.empty() ? Json() : Json(candidate.allocator));
  EXPECT_EQ(json.at("cost"), candidate.cost);
  EXPECT_EQ(json.at("works"), !candidate.refusal);
  const Json& refusal = json.at("refusal");
  ASSERT_EQ(refusal.is_null(), !candidate.refusal);
  if (!candidate.refusal) return;
  EXPECT_EQ(refusal.at("by"), candidate.refused_by);
  EXPECT_EQ(refusal.at("device"), candidate.refusal->device());
  EXPECT_EQ(refusal.at("call"), candidate.refusal->operation());
  EXPECT_EQ(refusal.at("errno"), candidate.refusal->code());
  EXPECT_EQ(refusal.at("name"), candidate.refusal->code_name());
  EXPECT_EQ(refusal.at("domain"), "os");
  EXPECT_EQ(refusal.at("detail"), candidate.refusal->detail());
}

TEST_F(ExplainTest, JsonHasEveryCandidateOfARefusal) {
  FakeSource camera(streams(20, {formats::yuyv, formats::xrgb8888}));
  const ManyReasons reasons(display);
  const Refused all = refused(camera);
  const Json json = Json::parse(all.json());
  EXPECT_EQ(json.at("error").at("errno"), all.error.code());
  EXPECT_EQ(json.at("error").at("name"), "EOPNOTSUPP");
  EXPECT_EQ(json.at("error").at("detail"), all.error.detail());
  ASSERT_EQ(json.at("candidates").size(), all.candidates.size());
  for (std::size_t i = 0; i < all.candidates.size(); ++i) expect_same(json.at("candidates").at(i), all.candidates[i]);
  EXPECT_EQ(json.at("candidates").at(0).at("refusal").at("step"), "check");
  EXPECT_EQ(json.at("candidates").at(1).at("refusal").at("step"), "consumer");
}

TEST_F(ExplainTest, JsonHasEveryCandidateOfAPlan) {
  FakeSource camera(streams(3, {formats::yuyv, formats::xrgb8888}));
  display.own_allocator = &of_display;
  const auto plan = negotiate(link(camera));
  ASSERT_TRUE(plan);
  const Json json = Json::parse(plan->json());
  EXPECT_EQ(json.at("stream"), plan->config.describe());
  EXPECT_EQ(json.at("allocator"), "display");
  EXPECT_EQ(json.at("buffers"), plan->buffers);
  EXPECT_EQ(json.at("copies"), false);
  ASSERT_EQ(json.at("candidates").size(), plan->candidates.size());
  for (std::size_t i = 0; i < plan->candidates.size(); ++i) {
    expect_same(json.at("candidates").at(i), plan->candidates[i]);
  }
}

TEST_F(ExplainTest, JsonIsWholeWhateverADriverCallsItself) {
  Refused odd{.error = Error::vulkan(-4, "vkQueueSubmit", "a \"gpu\"\n\xff")};
  odd.candidates.push_back({.refusal = Error::vulkan(-123456, "vkCreateImage")});
  const Json json = Json::parse(odd.json());
  EXPECT_EQ(json.at("error").at("name"), "VK_ERROR_DEVICE_LOST");
  EXPECT_EQ(json.at("error").at("domain"), "vulkan");
  EXPECT_EQ(json.at("error").at("device"), "a \"gpu\"\n\xef\xbf\xbd");
  EXPECT_TRUE(json.at("candidates").at(0).at("refusal").at("name").is_null());
}

}  // namespace
