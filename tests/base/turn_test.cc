#include "base/turn.h"

#include <gtest/gtest.h>

#include <thread>

namespace switchyard {
namespace {

bool another_thread_gets_it() {
  bool held = false;
  std::thread([&] { held = Turn(true).is_held(); }).join();
  return held;
}

TEST(Turn, IsOneThreadsAtATimeAndNobodyWaitsForItWithoutEnd) {
  {
    const Turn mine(true);
    EXPECT_TRUE(mine.is_held());
    EXPECT_FALSE(another_thread_gets_it());
  }
  EXPECT_TRUE(another_thread_gets_it());
}

TEST(Turn, IsTakenAgainByTheThreadThatHasIt) {
  const Turn of_layer(true);
  {
    const Turn of_dispatcher(true);
    EXPECT_TRUE(of_dispatcher.is_held());
  }
  EXPECT_FALSE(another_thread_gets_it()) << "the layer still has it";
}

TEST(Turn, IsNotTakenWhereNobodyWantsIt) {
  const Turn none(false);
  EXPECT_FALSE(none.is_held());
  EXPECT_TRUE(another_thread_gets_it());
}

}  // namespace
}  // namespace switchyard
