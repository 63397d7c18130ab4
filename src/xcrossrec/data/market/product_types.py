"""The sample market's product types, brands and words: hand-written for this project.

One line a product type:  theme | names | details | sizes ; where the last field is ``colour`` the
type is sold by colour instead. Names, details and sizes are separated by ``/``; the first name is the
commonest. Within a theme the order counts: each type's complement is the next one (the last one's the
first), e.g. a grinder calls for a kettle, a kettle for mugs.
All brand names are invented; likeness to a real one is coincidence.
"""

from __future__ import annotations

KITCHEN = """
coffee | Hand Coffee Grinder/Coffee Mill | Burr/Ceramic Burr/Steel/Adjustable | colour
coffee | Pour Over Kettle/Gooseneck Kettle | Stovetop/Electric/Stainless Steel/Enamel | 0.8 Litre/1 Litre/1.2 Litre
coffee | Espresso Cups/Coffee Mugs | Stoneware/Porcelain/Double Wall/Speckled | colour
grill | Grill Pan/Skillet | Cast Iron/Ridged/Carbon Steel/Preseasoned | 9 inch/10 inch/12 inch
grill | Steak Knives/Carving Knife | Serrated/Forged/High Carbon/Hammered | colour
grill | Meat Thermometer/Roasting Probe | Digital/Wireless/Instant Read/Dual Probe | colour
kids | Kids Chef Apron/Children's Cooking Apron | Cotton/Wipe Clean/Dinosaur/Rainbow | colour
kids | Toddler Plate and Bowl Set/Kids Divided Plates | Silicone/Bamboo/Suction/Animal Face | colour
kids | Children's Step Stool/Toddler Kitchen Helper | Folding/Non Slip/Two Step/Beech | colour
water | Water Filter Pitcher/Filter Jug | Slim/Glass/Large/Fridge Door | 1.5 Litre/2.4 Litre/3.5 Litre
water | Sparkling Water Maker/Soda Siphon | Manual/Countertop/Compact/Steel | colour
water | Water Carafe with Glass/Drinking Glasses | Hand Blown/Ribbed/Stackable/Tempered | colour
harvest | Canning Jars/Preserving Jars | Wide Mouth/Clip Top/Glass/Quilted | 250 ml/500 ml/1 Litre
harvest | Fermentation Crock/Pickling Crock | Stoneware/Water Seal/Glazed/Glass | 2 Litre/5 Litre/10 Litre
harvest | Food Dehydrator/Fruit Drying Racks | Electric/Stackable/Five Tray/Quiet | colour
wood | Cutting Board/Butcher Block | Walnut/Maple/End Grain/Acacia | 12 inch/16 inch/20 inch
wood | Wooden Spoon Set/Wooden Spatula Set | Olive Wood/Cherry/Teak/Beech | 3 Pieces/5 Pieces/7 Pieces
wood | Board Wax/Butcher Block Oil | Beeswax/Food Safe/Natural/Walnut | 100 ml/250 ml/500 ml
pets | Dog Treat Jar/Pet Food Canister | Airtight/Ceramic/Enamel/Paw Print | colour
pets | Dog Biscuit Baking Mould/Bone Cookie Cutters | Silicone/Steel/Non Stick/Mini | colour
pets | Raised Pet Bowl/Slow Feeder Dog Bowl | Stoneware/Bamboo/Non Slip/Double | colour
"""

CAMPING = """
coffee | Camp Percolator/Campfire Coffee Pot | Enamel/Stainless Steel/Aluminium/Folding Handle | 6 Cups/9 Cups/12 Cups
coffee | Insulated Coffee Flask/Coffee Thermos | Vacuum/Leakproof/One Hand/Wide Neck | colour
coffee | Folding Coffee Dripper/Travel Coffee Press | Ultralight/Collapsible/Mesh/Silicone | colour
grill | Camp Stove/Backpacking Gas Stove | Two Burner/Folding/Windproof/Compact | colour
grill | Campfire Grill Grate/Tripod Grill | Steel/Folding/Swivel/Heavy Duty | 16 inch/20 inch/24 inch
grill | Portable Fire Pit/Fire Bowl | Smokeless/Collapsible/Mesh/Steel | 15 inch/19 inch/22 inch
kids | Kids Sleeping Bag/Children's Sleeping Bag | Fleece Lined/Glow in the Dark/Mummy/Warm | colour
kids | Kids Headlamp/Children's Lantern | Rechargeable/Owl/Dinosaur/Dimmable | colour
kids | Children's Binoculars/Kids Explorer Kit | Shockproof/Rubber/Bug Catching/Compact | colour
water | Water Purifier Bottle/Squeeze Water Filter | Hollow Fibre/Inline/Ceramic/Carbon | colour
water | Hydration Bladder/Water Container | Leakproof/Insulated/Quick Release/Wide Mouth | 2 Litre/3 Litre/10 Litre
water | Dry Bag/Roll Top Waterproof Sack | Floating/Clear Window/Lightweight/Padded | 5 Litre/10 Litre/20 Litre
harvest | Mushroom Foraging Knife/Foraging Knife | Curved/Brush Tip/Folding/Stainless | colour
harvest | Foraging Basket/Berry Picking Bag | Willow/Waxed Canvas/Mesh/Shoulder | colour
harvest | Berry Comb Picker/Wild Berry Scoop | Steel/Long Tooth/Handheld/Wide | colour
wood | Camp Hatchet/Splitting Axe | Hickory/Forged/Carbon Steel/Ash Handle | 11 inch/14 inch/19 inch
wood | Folding Saw/Bucksaw | Coarse Tooth/Wooden Handle/Packable/Curved | 8 inch/10 inch/21 inch
wood | Bushcraft Knife/Wood Carving Knife | Fixed Blade/Birch Handle/Scandi Grind/Walnut | colour
pets | Dog Hiking Backpack/Dog Saddle Bag | Padded/Reflective/Quick Release/Waterproof | colour
pets | Collapsible Dog Bowl/Travel Dog Water Bottle | Silicone/Clip On/Leakproof/Twin | colour
pets | Dog Tent/Outdoor Dog Bed | Pop Up/Elevated/Insulated/Packable | colour
"""

GARDEN = """
coffee | Bistro Table Set/Breakfast Patio Chairs | Folding/Wrought Iron/Mosaic/Slatted | colour
coffee | Tea Herb Seeds/Mint and Chamomile Seeds | Organic/Heirloom/Non GMO/Mixed | 4 Packets/8 Packets/12 Packets
coffee | Coffee Grounds Composter/Tea Leaf Compost Caddy | Odour Free/Tumbling/Charcoal Filter/Bamboo | colour
grill | Charcoal Barbecue/Kettle Grill | Portable/Lidded/Barrel/Enamelled | 14 inch/18 inch/22 inch
grill | Barbecue Tongs and Spatula/Grill Tool Set | Long Handle/Stainless/Forged/Oak Handle | 3 Pieces/5 Pieces/9 Pieces
grill | Patio Fire Pit/Wood Fired Pizza Oven | Cast Iron/Corten Steel/Clay/Round | colour
kids | Children's Watering Can/Kids Gardening Tools | Ladybird/Tin/Easy Grip/Frog | colour
kids | Kids Sandbox/Children's Mud Kitchen | Covered/Cedar/Foldable/Corner | colour
kids | Children's Sunflower Growing Kit/Kids Bug Hotel | Beginner/Giant/Painted/Classroom | colour
water | Garden Hose/Hose Reel | Expandable/Kink Free/Wall Mounted/Retractable | 15 m/25 m/30 m
water | Drip Irrigation Kit/Soaker Hose | Automatic/Timer/Self Watering/Greenhouse | 15 m/30 m/50 m
water | Rain Barrel/Pond Fountain Pump | Solar/Collapsible/Submersible/Slimline | colour
harvest | Raised Vegetable Bed/Vegetable Grow Bags | Galvanised/Modular/Fabric/Deep | colour
harvest | Tomato Cage/Vegetable Plant Supports | Stackable/Spiral/Steel/Extendable | 3 Pack/6 Pack/10 Pack
harvest | Fruit Picker/Harvest Basket | Telescopic/Wire/Padded/Trug | colour
wood | Planter Box/Window Box | Cedar/Acacia/Reclaimed Wood/Oak | 20 inch/24 inch/36 inch
wood | Garden Bench/Wooden Arbour Seat | Teak/Eucalyptus/Slatted/Pine | colour
wood | Decking Oil/Outdoor Furniture Wood Stain | Teak/Matt/Weatherproof/Clear | 500 ml/1 Litre/2.5 Litre
pets | Dog Agility Tunnel/Dog Agility Hurdles | Pop Up/Adjustable/Heavy Duty/Sandbag | colour
pets | Dog Paddling Pool/Pet Bath Pool | Foldable/Non Slip/Large/Puncture Proof | 32 inch/48 inch/63 inch
pets | Outdoor Dog Kennel/Cat House | Raised/Insulated/Weatherproof/Pitched Roof | colour
"""

HOBBY = """
coffee | Mug Painting Kit/Coffee Cup Glaze Kit | Ceramic/Porcelain/Air Dry/Brush On | 6 Colours/12 Colours/24 Colours
coffee | Tea Cosy Knitting Kit/Teapot Cosy Crochet Kit | Merino/Chunky/Cable/Cotton | colour
coffee | Latte Art Stencils/Coffee Dye Kit | Reusable/Botanical/Steel/Geometric | 8 Pieces/16 Pieces/24 Pieces
grill | Pyrography Pen/Wood Burning Kit | Adjustable/Dual/Fine Tip/Temperature Control | 12 Tips/24 Tips/36 Tips
grill | Barbecue Branding Iron Kit/Forging Kit | Brass/Custom/Backyard/Steel | colour
grill | Smoke Spice Blending Kit/Barbecue Rub Making Kit | Chili/Hickory/Gift Box/Mesquite | 6 Jars/9 Jars/12 Jars
kids | Finger Paint Set/Kids Washable Paints | Non Toxic/Glitter/Rainbow/Toddler | 6 Colours/10 Colours/16 Colours
kids | Kids Modelling Clay/Children's Play Dough Set | Soft/Air Dry/Scented/Dinosaur | 8 Pots/12 Pots/20 Pots
kids | Friendship Bracelet Kit/Children's Bead Set | Wooden/Letter/Woven/Alphabet | colour
water | Watercolour Paint Set/Water Brush Pens | Pocket/Studio/Metallic/Tin | 12 Colours/24 Colours/36 Colours
water | Model Sailing Boat Kit/Ship in a Bottle Kit | Balsa/Schooner/Cutter/Tall Ship | 8 inch/12 inch/18 inch
water | Ocean Resin Art Kit/Sea Glass Mosaic Kit | Epoxy/Wave/Coaster/Tide | colour
harvest | Flower Press/Leaf Pressing Kit | Beech/Microwave/Pocket/Botanical | colour
harvest | Natural Plant Dye Kit/Botanical Dyeing Set | Indigo/Madder/Onion Skin/Marigold | 3 Jars/5 Jars/8 Jars
harvest | Basket Weaving Kit/Willow Weaving Kit | Rattan/Seagrass/Round/Bread Basket | colour
wood | Whittling Knife Set/Wood Carving Chisels | Carbon Steel/Detail/Walnut Handle/Forged | 3 Pieces/6 Pieces/12 Pieces
wood | Basswood Carving Blocks/Wood Turning Blanks | Kiln Dried/Smooth/Cherry/Mixed | 8 Pack/12 Pack/20 Pack
wood | Wooden Clock Puzzle Kit/Marquetry Kit | Laser Cut/Plywood/Inlay/Mechanical | colour
pets | Needle Felted Dog Kit/Felt Cat Kit | Wool/Poodle/Terrier/Pocket | colour
pets | Dog Sweater Knitting Kit/Pet Bandana Sewing Kit | Aran/Cotton/Striped/Fleece | colour
pets | Paw Print Casting Kit/Pet Portrait Painting Kit | Clay/Plaster/Framed/Canvas | colour
"""

PRODUCT_TYPES: dict[str, str] = {"kitchen": KITCHEN, "camping": CAMPING, "garden": GARDEN, "hobby": HOBBY}
"""Domain name to its table; the order is the market's order of domains."""

THEMES: tuple[str, ...] = ("coffee", "grill", "kids", "water", "harvest", "wood", "pets")

BRAND_HOUSES: tuple[tuple[str, str], ...] = (
    ("Harrowmere", "Quillmoor"),
    ("Brindlecombe", "Tolvane"),
    ("Osterfen", "Duskwether"),
    ("Marrowick", "Velloran"),
    ("Pinnacrest", "Caldersby"),
    ("Wrenfolk", "Hollinbrae"),
)
"""Each house sells in every domain under two names; no title says which names belong together."""

TIER_WORDS: tuple[tuple[str, ...], ...] = (
    ("Starter", "Basic", "Budget", "Essential"),
    ("Classic", "Standard", "Everyday"),
    ("Pro", "Premium", "Deluxe", "Master"),
)

PALETTE_WORDS: tuple[tuple[str, ...], ...] = (
    ("Terracotta", "Rust", "Ochre"),
    ("Sage Green", "Moss Green", "Olive"),
    ("Navy", "Slate Blue", "Teal"),
    ("Cream", "Linen White", "Sand"),
    ("Charcoal", "Matte Black", "Graphite"),
    ("Coral", "Cherry Red", "Sunflower Yellow"),
)
