#include <dmaflow/stats.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace dmaflow {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

// --- Histogram ------------------------------------------------------------------------------------------------------

TEST(Histogram, EmptyIsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0U);
  EXPECT_EQ(histogram.percentile(50), 0ns);
  EXPECT_EQ(histogram.max(), 0ns);
  EXPECT_TRUE(histogram.buckets().empty());
}

TEST(Histogram, OneValueIsEveryPercentile) {
  Histogram histogram;
  histogram.add(12'345us);
  for (const double percent : {-5.0, 0.0, 1.0, 50.0, 99.0, 100.0, 200.0})
    EXPECT_EQ(histogram.percentile(percent), 12'345us);
  EXPECT_EQ(histogram.max(), 12'345us);
}

TEST(Histogram, NoValueIsLostHoweverLargeOrSmall) {
  Histogram histogram;
  for (const nanoseconds value :
       {nanoseconds::min(), -1ns, 0ns, 1ns, 999ns, nanoseconds(1us), nanoseconds(24h * 30), nanoseconds::max()}) {
    histogram.add(value);
  }
  EXPECT_EQ(histogram.count(), 8U);
  EXPECT_EQ(histogram.max(), nanoseconds::max());
  std::uint64_t sum = 0;
  for (const auto& bucket : histogram.buckets()) sum += bucket.count;
  EXPECT_EQ(sum, 8U);
}

TEST(Histogram, EachValueLiesInItsBucketAndBucketsAreNarrow) {
  std::mt19937_64 random(1);  // NOLINT: the same cases on every run
  for (int round = 0; round < 20'000; ++round) {
    const auto micros = static_cast<std::int64_t>(std::exp2(std::uniform_real_distribution(0.0, 35.0)(random)));
    Histogram histogram;
    histogram.add(std::chrono::microseconds(micros));
    const auto buckets = histogram.buckets();
    ASSERT_EQ(buckets.size(), 1U);
    const Histogram::Bucket& bucket = buckets.front();
    ASSERT_LE(bucket.from, std::chrono::microseconds(micros));
    ASSERT_GT(bucket.to, std::chrono::microseconds(micros));
    const double width = static_cast<double>((bucket.to - bucket.from).count());
    ASSERT_LE(width, std::max(1000.0, 0.032 * static_cast<double>(bucket.from.count()))) << micros;
  }
}

TEST(Histogram, PercentilesAreWithinThreePercentOfTheTrueOnes) {
  std::mt19937_64 random(2);  // NOLINT: the same cases on every run
  std::lognormal_distribution<double> latency(std::log(15'000.0), 0.7);
  Histogram histogram;
  std::vector<std::int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(static_cast<std::int64_t>(latency(random) * 1000));
    histogram.add(nanoseconds(values.back()));
  }
  std::ranges::sort(values);
  for (const double percent : {1.0, 10.0, 50.0, 90.0, 99.0, 99.9}) {
    const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
    const auto truth = static_cast<double>(values[rank - 1]);
    EXPECT_NEAR(static_cast<double>(histogram.percentile(percent).count()), truth, 0.032 * truth) << percent;
  }
  EXPECT_EQ(histogram.percentile(100), nanoseconds(values.back()));
  EXPECT_EQ(histogram.max(), nanoseconds(values.back()));
}

TEST(Histogram, PercentilesRiseAndNeverPassTheMaximum) {
  Histogram histogram;
  for (int i = 0; i < 100; ++i) histogram.add(std::chrono::milliseconds(10 + i % 7));
  nanoseconds previous{0};
  for (double percent = 0; percent <= 100; percent += 0.5) {
    const nanoseconds value = histogram.percentile(percent);
    EXPECT_GE(value, previous);
    EXPECT_LE(value, histogram.max());
    previous = value;
  }
}

TEST(Histogram, BucketsRiseAndDoNotOverlap) {
  Histogram histogram;
  for (int i = 0; i < 5000; ++i) histogram.add(std::chrono::microseconds(i * i));
  const auto buckets = histogram.buckets();
  for (std::size_t i = 1; i < buckets.size(); ++i) EXPECT_GE(buckets[i].from, buckets[i - 1].to);
}

// --- line -----------------------------------------------------------------------------------------------------------

Stats some_stats() {
  Stats stats;
  stats.elapsed = 3500ms;
  stats.per_second = {58, 60, 59, 30};
  for (int i = 0; i < 59; ++i) stats.recent.add(2);
  StreamStats stream;
  stream.name = "camera";
  stream.captured = 210;
  BranchStats branch;
  branch.name = "display";
  branch.delivered = 208;
  branch.presented = 207;
  branch.dropped.replaced = 2;
  for (int i = 0; i < 100; ++i) branch.latency.add(12ms);
  branch.latency.add(20ms);
  stream.branches.push_back(branch);
  stats.streams.push_back(stream);
  return stats;
}

TEST(StatsLine, TellsTheLastFullSecond) {
  EXPECT_EQ(some_stats().line(), "59.0 fps  latency p50 11.9 ms  p99 11.9 ms  dropped 2")
      << "12 ms lies in the bucket from 11.776 to 12.032 ms";
}

TEST(StatsLine, ASecondWithoutFramesIsZero) {
  Stats stats = some_stats();
  stats.elapsed = 9500ms;  // nothing was presented after the fourth second
  EXPECT_EQ(stats.line().substr(0, 7), "0.0 fps");
}

TEST(StatsLine, BeforeTheFirstSecondItIsTheAverage) {
  Stats stats = some_stats();
  stats.elapsed = 500ms;
  stats.streams[0].branches[0].presented = 30;
  EXPECT_EQ(stats.line().substr(0, 8), "60.0 fps");
}

TEST(StatsLine, AfterTheFirstHourItIsStillTheLastSecond) {
  Stats stats = some_stats();
  stats.elapsed = 7200500ms;
  stats.streams[0].branches[0].presented = 7200 * 25;  // the average
  for (int i = 0; i < 7; ++i) stats.recent.add(7199);
  EXPECT_EQ(stats.line().substr(0, 7), "7.0 fps");
}

TEST(RecentSeconds, ForgetsWhatIsOlderThanFourSecondsAndTakesLateReports) {
  RecentSeconds recent;
  recent.add(1);
  recent.add(2);
  recent.add(1);  // a late report
  EXPECT_EQ(recent.of(1), 2U);
  EXPECT_EQ(recent.of(2), 1U);
  recent.add(5);
  recent.add(1);
  EXPECT_EQ(recent.of(1), 0U);
  EXPECT_EQ(recent.of(5), 1U);
}

TEST(StatsLine, NothingYetIsZero) {
  EXPECT_EQ(Stats{}.line(), "0.0 fps");
  Stats stats;
  stats.streams.emplace_back();
  EXPECT_EQ(stats.line(), "0.0 fps");
}

TEST(StatsLine, FramesTheDeviceLostAreSaid) {
  Stats stats = some_stats();
  stats.streams[0].lost = 4;
  EXPECT_NE(stats.line().find("dropped 2  lost 4"), std::string::npos) << stats.line();
}

TEST(StatsLine, SeveralStreamsAreNamed) {
  Stats stats = some_stats();
  stats.streams.push_back(stats.streams.front());
  stats.streams[1].name = "second";
  stats.streams[1].branches[0].dropped = {.at_stop = 7};
  const std::string line = stats.line();
  EXPECT_NE(line.find("camera:  latency"), std::string::npos) << line;
  EXPECT_NE(line.find("second:  latency"), std::string::npos) << line;
  EXPECT_NE(line.find("dropped 7"), std::string::npos) << line;
}

// --- json -----------------------------------------------------------------------------------------------------------

TEST(StatsJson, HasEveryCounter) {
  Stats stats = some_stats();
  stats.streams[0].lost = 1;
  stats.streams[0].erroneous = 2;
  stats.streams[0].bytes_copied = 1ULL << 40U;
  stats.streams[0].renegotiations = 3;
  const auto json = nlohmann::json::parse(stats.json());
  EXPECT_DOUBLE_EQ(json["elapsed_s"], 3.5);
  EXPECT_DOUBLE_EQ(json["fps"], 59.0);
  EXPECT_EQ(json["per_second"], (std::vector<int>{58, 60, 59, 30}));
  const auto& stream = json["streams"].at(0);
  EXPECT_EQ(stream["name"], "camera");
  EXPECT_EQ(stream["captured"], 210);
  EXPECT_EQ(stream["lost"], 1);
  EXPECT_EQ(stream["erroneous"], 2);
  EXPECT_EQ(stream["bytes_copied"], 1ULL << 40U);
  EXPECT_EQ(stream["renegotiations"], 3);
  const auto& branch = stream["branches"].at(0);
  EXPECT_EQ(branch["name"], "display");
  EXPECT_EQ(branch["delivered"], 208);
  EXPECT_EQ(branch["presented"], 207);
  EXPECT_EQ(branch["dropped"], 2);
  EXPECT_EQ(branch["drops"]["replaced"], 2);
  for (const char* none : {"queue_full", "by_device", "at_stop"}) EXPECT_EQ(branch["drops"][none], 0) << none;
  for (const char* none : {"failed", "held", "added"}) EXPECT_EQ(branch[none], 0) << none;
  const auto& latency = branch["latency_ms"];
  EXPECT_EQ(latency["count"], 101);
  EXPECT_NEAR(latency["p50"], 12.0, 0.4);
  EXPECT_DOUBLE_EQ(latency["max"], 20.0);
  std::uint64_t counted = 0;
  for (const auto& bucket : latency["buckets"]) {
    EXPECT_LT(bucket["from"].get<double>(), bucket["to"].get<double>());
    counted += bucket["count"].get<std::uint64_t>();
  }
  EXPECT_EQ(counted, 101U);
}

TEST(StatsJson, EmptyIsValid) {
  const auto json = nlohmann::json::parse(Stats{}.json());
  EXPECT_TRUE(json["streams"].empty());
  EXPECT_TRUE(json["per_second"].empty());
}

TEST(StatsJson, AnyNameIsEscaped) {
  for (const std::string& name : {std::string("quote\" back\\slash"), std::string("line\nbreak\ttab\x01\x1f"),
                                  std::string("Käse \xe2\x82\xac \xf0\x9f\x8e\xa5"), std::string("nul\0inside", 10)}) {
    Stats stats = some_stats();
    stats.streams[0].name = name;
    EXPECT_EQ(nlohmann::json::parse(stats.json())["streams"][0]["name"], name);
  }
}

TEST(StatsJson, BytesThatAreNoUtf8AreReplacedNotPassedOn) {
  std::mt19937 random(3);  // NOLINT: the same cases on every run
  for (int round = 0; round < 3000; ++round) {
    Stats stats;
    stats.streams.emplace_back();
    for (auto i = random() % 12; i > 0; --i) stats.streams[0].name += static_cast<char>(random() % 256);
    EXPECT_TRUE(nlohmann::json::accept(stats.json())) << stats.json();
  }
}

}  // namespace
}  // namespace dmaflow
