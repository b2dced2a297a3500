"""Worked examples as (question, rationale) pairs, one set per kind of question.

They are written for this project in the style of the data sets, so every split may use them.
"""

NUMBER = (
  (
    "A baker makes 4 trays of 6 rolls and sells 15 rolls. How many rolls are left?",
    "The baker makes 4 * 6 = 24 rolls.\nThere are 24 - 15 = 9 rolls left.\nAnswer: 9",
  ),
  (
    "Nora has $20. She buys 3 notebooks for $4 each. How much money does she have now?",
    "The notebooks cost 3 * 4 = 12 dollars.\nNora has 20 - 12 = 8 dollars.\nAnswer: 8",
  ),
  (
    "Two classes of 24 and 26 children go to the museum in vans. A van takes 10 children. How many"
    " vans do they need?",
    "There are 24 + 26 = 50 children.\nThey need 50 / 10 = 5 vans.\nAnswer: 5",
  ),
)

CHOICE = (
  (
    "Where would you keep butter so that it stays firm?\n(A) oven\n(B) refrigerator\n(C) pocket"
    "\n(D) garden",
    "Butter stays firm when it is cold.\nOf the choices, only a refrigerator is cold inside."
    "\nAnswer: B",
  ),
  (
    "What does a plant need light for?\n(A) to make its food\n(B) to fall asleep\n(C) to hear"
    "\n(D) to lose water",
    "A plant builds sugar out of water and air.\nThe energy for that comes from light.\nAnswer: A",
  ),
  (
    "Kim forgot an umbrella and it began to pour. How would Kim feel?\n(A) hungry\n(B) proud"
    "\n(C) annoyed",
    "Without an umbrella one gets wet in the rain.\nPeople who get wet like that are annoyed."
    "\nAnswer: C",
  ),
)

BOOLEAN = (
  (
    "Could a goldfish climb a ladder?",
    "A goldfish has fins and no legs or arms.\nTo climb a ladder one needs legs or arms."
    "\nAnswer: no",
  ),
  (
    "Is a leap year longer than fifty weeks?",
    "A leap year has 366 days.\nFifty weeks have 50 * 7 = 350 days.\n366 is more than 350."
    "\nAnswer: yes",
  ),
  (
    "Would a snowman last a July afternoon in the Sahara?",
    "Snow melts above 0 degrees Celsius.\nA July afternoon in the Sahara has about 40 degrees."
    "\nAnswer: no",
  ),
)

TEXT = (
  (
    "Which animal gives us wool?",
    "Wool is the hair of an animal that is shorn.\nSheep are shorn once a year.\nAnswer: sheep",
  ),
  (
    "What is the opposite of cheap?",
    "Cheap means that something costs little.\nSomething that costs much is expensive."
    "\nAnswer: expensive",
  ),
  (
    "In which season do most trees lose their leaves?",
    "Trees lose their leaves when days get shorter and colder.\nThat is after summer."
    "\nAnswer: autumn",
  ),
)

AQUA = (
  (
    "A train covers 120 km in 2 hours. What is its speed in km per hour?\n(A) 40\n(B) 50\n(C) 60"
    "\n(D) 80\n(E) 240",
    "The speed is 120 / 2 = 60 km per hour.\nThat is choice C.\nAnswer: C",
  ),
  (
    "What is 20 % of 45?\n(A) 9\n(B) 18\n(C) 20\n(D) 25\n(E) 36",
    "One percent of 45 is 45 / 100 = 0.45.\n20 % are 20 * 0.45 = 9.\nAnswer: A",
  ),
  (
    "The mean of 4, 10 and x is 9. What is x?\n(A) 7\n(B) 9\n(C) 11\n(D) 12\n(E) 13",
    "The three numbers add up to 3 * 9 = 27.\nSo x = 27 - 4 - 10 = 13.\nAnswer: E",
  ),
)

MATH = (
  (
    "What is the slope of the line $2x + 3y = 6$?",
    "We have $3y = 6 - 2x$, so $y = 2 - \\frac{2}{3}x$.\nThe slope is the factor of $x$."
    "\nAnswer: -\\frac{2}{3}",
  ),
  (
    "Simplify $\\sqrt{12}$.",
    "We have $12 = 4 \\cdot 3$.\nSo $\\sqrt{12} = \\sqrt{4} \\cdot \\sqrt{3}$.\nAnswer: 2\\sqrt{3}",
  ),
  (
    "For which $x$ is $x^2 < 9$? Write an interval.",
    "$x^2 = 9$ at $x = -3$ and $x = 3$.\nBetween them $x^2$ is smaller.\nAnswer: (-3,3)",
  ),
)
